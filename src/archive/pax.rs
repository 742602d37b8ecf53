//! archive/pax
