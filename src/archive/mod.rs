//! The tar format without I/O: bytes in, members out, and the reverse.

pub mod header;
pub mod number;
pub mod outline;
pub mod pax;
pub mod reader;
pub mod sparse;
pub mod writer;
