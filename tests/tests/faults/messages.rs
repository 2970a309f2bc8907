//! SIGKILL before and after each message of a life cycle: each that a process hears or says, one round a message, until a
//! cycle goes through without that many. What is said of the parts that the guests outlive, and of those they don't, is as in
//! `kills`, where the moments are any.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use testkit::artefacts;
use testkit::census::Census;
use testkit::moment::{self, Met, Point};
use testkit::process::Process;

use crate::cycle::{CYCLE, Cycle};
use crate::kills::{all_end, serves_again};
use crate::world::{World, kill};

/// More points than any life cycle has: it would be one that never ends.
const TOO_MANY: usize = 2000;

/// control and priv, which the guests outlive.
pub fn of_roles() {
    let mut world = World::new("", &[]);
    for role in ["control", "priv"] {
        let count = until_passed(|at| {
            let name = world.next("vm");
            let met = moment_of(world.role(role), &name, at);
            serves_again(&world, role);
            world.ends(&name);
            world.is_stopped(&format!("{met:?} of {role}"), &name);
            met
        });
        println!("kill -9 of {role}: at each of {count} points");
    }
    world.end();
}

/// A client: each of a cycle's in turn.
pub fn of_clients() {
    let mut world = World::new("", &[]);
    for (index, words) in CYCLE.iter().enumerate() {
        let count = until_passed(|at| {
            let name = world.next("vm");
            for earlier in &CYCLE[..index] {
                world.daemon.vmctl(&[earlier, &[name.as_str()][..]].concat()).success();
            }
            let met = client(words, &name, at);
            serves_again(&world, "client");
            world.ends(&name);
            world.is_stopped(&format!("{met:?} of vmctl {}", words[0]), &name);
            met
        });
        println!("kill -9 of vmctl {}: at each of {count} points", words[0]);
    }
    world.end();
}

/// vmm or the parent, which no guest outlives.
pub fn of_the_end(role: &str) {
    let nothing = Census::take();
    let count = until_passed(|at| {
        let mut world = World::new("", &[]);
        let name = world.next("vm");
        let victim = if role == "parent" { world.daemon.process() } else { world.role(role) };
        let met = moment_of(victim, &name, at);
        if met.is_none() {
            kill(victim, Signal::KILL);
        }
        all_end(&world, role);
        met
    });
    println!("kill -9 of {role}: at each of {count} points");
    // What the last left goes with the next start.
    let next = World::new("", &[]);
    next.stop("other");
    assert!(next.daemon.stop().success(), "the next vmd ends well");
    nothing.wait_same();
}

/// Rounds from the first point on, until one has no such point; tells how many there were.
fn until_passed(mut round: impl FnMut(usize) -> Option<Point>) -> usize {
    let kills = (1..TOO_MANY).take_while(|at| round(*at).is_some()).count();
    assert!(kills > 0, "nothing was ever said");
    kills
}

/// A cycle, during which the process is killed at that point, if it comes to it.
fn moment_of(victim: Process, name: &str, at: usize) -> Option<Point> {
    let follower = moment::follow(victim, at);
    let cycle = Cycle::begin(name, move || moment::let_go(victim));
    let met = follower.join().expect("no panic");
    cycle.end();
    killed(met)
}

fn killed(met: Met) -> Option<Point> {
    match met {
        Met::Killed(point) => Some(point),
        Met::Passed(_) => None,
    }
}

/// Runs a client that is killed at that point. A shell waits until it is followed, and becomes it.
fn client(words: &[&str], name: &str, at: usize) -> Option<Point> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "read go && exec \"$@\"", "sh"]).arg(artefacts::vmctl()).args(words).arg(name);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell");
    let victim = Process { pid: child.id() };
    let go = child.stdin.take().expect("its input");
    let follower = moment::follow(victim, at);
    std::io::Write::write_all(&mut &go, b"go\n").expect("it reads");
    drop(go);
    let met = follower.join().expect("no panic");
    let _ = child.wait(); // the follower has reaped it, unless it was too late
    killed(met)
}
