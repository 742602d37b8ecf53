//! archive/writer
