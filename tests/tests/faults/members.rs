//! Processes of the VM that die before its guest runs. Its vm process is held where it reads the kernel: by then those of
//! its devices have said that they are ready, and wait for it.

use rustix::process::Signal;

use crate::hold::{At, Hold};
use crate::world::{ROUNDS, World, answer, begin, kill};

/// Who dies, and what the caller hears.
const DEATHS: [(&str, &str); 3] = [
    ("vm", "vm process ended before its guest ran: signal 9"),
    ("vioblk", "vioblk0 ended before the guest ran: signal 9"),
    ("vionet", "vionet0 ended before the guest ran: signal 9"),
];

pub fn all(world: &mut World) {
    for (role, words) in DEATHS {
        let fault = format!("a {role} that is killed");
        let mut hold = Hold::new(At::Read, &world.files("vm").kernel, "vmd: vm ");
        world.fails((&fault, "vm"), ROUNDS.div_ceil(DEATHS.len()), words, |world, name| {
            hold.arm();
            let start = begin(name);
            hold.caught();
            kill(world.member(role, name), Signal::KILL);
            answer(start)
        });
        drop(hold);
        world.serves(&fault);
    }
}
