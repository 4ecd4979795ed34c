//! The container network against the real kernel. Needs root; every host, container and neighbour
//! here is a network namespace without a name, gone with the test process.

mod concurrent;
mod host;
mod interrupted;
mod leftovers;
mod loopback;
mod ports;
mod reach;
mod udp;
