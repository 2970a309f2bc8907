//! Prints the tables of docs/roles.md: the roles, and what they may do and may not be seen to do.
#![forbid(unsafe_code)]

fn main() {
    print!("{}\n{}", sandbox::table(), sandbox::unseen());
}
