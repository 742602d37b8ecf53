//! Values that several commands take: sizes, ids.
