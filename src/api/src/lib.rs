//! What the parts of the system tell each other. Today that is the trace record alone.

pub mod trace;
