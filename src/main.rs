//! The command line of isar-tarball: a thin program on the library of the same name.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
