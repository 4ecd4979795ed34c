//! The harness for the tests of the whole system: a node of its own for every test, a real registry, and
//! the programs `agent` and `shim` as their users have them. Nothing here links against the product.
//!
//! | module | idea |
//! | --- | --- |
//! | `support::node` | roots, network namespace and cgroup of one test; asserts that nothing is left |
//! | `support::leftovers` | what containers may leave behind, looked for outside the product |
//! | `support::program` | running a program with a limit, and what it said |
//! | `support::running` | a program that runs beside the test |
//! | `support::netns` | network namespaces, and work done inside them |
//! | `support::registry` | Debian's docker-registry on loopback of a namespace |
//! | `support::storage` | a registry's storage with the images of this repo, made once |
//! | `support::authority` | certificates of a test's own |
//! | `support::token` | a token server for registries, which remembers who asked it |
//! | `support::faults` | a proxy that does to a registry's answers what a test wants |
//! | `support::proxy`, `support::http` | a proxy for clients, and the HTTP that all these speak |
//! | `support::image`, `support::layer` | images made by hand, hostile ones among them |
//! | `support::power` | a disk whose power may be cut at any moment |
//! | `support::tree` | what a tree of files holds, entry by entry |
//! | `support::terminal` | a program on a terminal |
//! | `support::random`, `support::extent` | seeded random numbers, and how many rounds |
//!
//! The tests need root, the images of this repo (scripts/build-images) and the programs that scripts/setup installs;
//! what is missing they say and fail.

#![forbid(unsafe_code)]

pub mod support;

pub use support::authority::{Authority, Identity};
pub use support::faults::{Fault, Faults};
pub use support::image::{Image, ImageConfig};
pub use support::layer::Layer;
pub use support::netns::Netns;
pub use support::node::{APP, BASE, Node, PROBE};
pub use support::program::Output;
pub use support::proxy::Proxy;
pub use support::registry::{Registry, RegistrySpec};
pub use support::running::Running;
pub use support::token::{TokenServer, TokenSpec};
pub use support::wait::within;
