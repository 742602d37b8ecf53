//! archive/header
