//! The `stark` command: arguments in, exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    stark::cli::main()
}
