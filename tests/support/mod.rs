//! The parts of the harness; see the crate's own words.

pub mod authority;
pub mod disk;
pub mod extent;
pub mod faults;
pub mod http;
pub mod image;
pub mod layer;
pub mod leftovers;
pub mod netns;
pub mod node;
pub mod power;
pub mod program;
pub mod proxy;
pub mod random;
pub mod registry;
pub mod running;
pub mod storage;
pub mod terminal;
pub mod token;
pub mod tree;
pub mod wait;
