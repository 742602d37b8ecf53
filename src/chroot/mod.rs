//! Running a command in a tree: what is mounted there, and what is taken away again.

pub mod proc;
