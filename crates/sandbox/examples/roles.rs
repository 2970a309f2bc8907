//! Prints the table of roles for docs/roles.md.
#![forbid(unsafe_code)]

fn main() {
    print!("{}", sandbox::table());
}
