//! The tar format, sans-IO: bytes in, members out, and the other way round.

pub mod header;
pub mod number;
pub mod outline;
pub mod pax;
pub mod reader;
pub mod sparse;
pub mod writer;
