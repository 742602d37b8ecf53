//! archive/sparse
