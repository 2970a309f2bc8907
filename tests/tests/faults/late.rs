//! Processes that hang until a deadline, and those that are started again: dear, so they are few, and side by side.
//!
//! A hanging opener takes 30 s, a hanging vm process 60 s, a back end that does not answer 10 s: each is made once, while
//! priv is killed twelve times (the daemon starts it again three times in six seconds, then gives up), control three times.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::daemon::Reply;
use testkit::deadline::{self, DAEMON};
use testkit::status::HEADER;

use crate::count::{Count, Whole};
use crate::hold::{At, Hold};
use crate::world::{Kind, World, answer, begin, kill, says};

const CARD: &str = "interface { switch \"lan\" }";

/// A VM for each that hangs.
pub const KINDS: [Kind; 4] = [("opener", 1, CARD), ("loader", 1, CARD), ("vioblk", 1, CARD), ("vionet", 1, CARD)];

/// So often priv is killed, and so often in a row, after which it must have lived for a while.
const KILLS: usize = 12;
const IN_A_ROW: usize = 3;
const LIVED: Duration = Duration::from_secs(7);

/// What the caller hears, and when at the earliest.
const HEARD: [(&str, &str, u64); 4] = [
    ("opener", "start took longer than 30 s: a file could not be opened in time", 30),
    ("loader", "the guest did not run within 60 s", 60),
    ("vioblk", "vhost-user", 5),
    ("vionet", "vhost-user", 5),
];

pub fn all(world: &mut World) {
    let before = Count::take(&world.daemon);
    let whole = Whole::take(&world.daemon);
    let hanging = KINDS.map(|(kind, ..)| hang(world, kind));
    for round in 0..KILLS {
        if round % IN_A_ROW == 0 {
            std::thread::sleep(LIVED);
        }
        a_priv_that_is_killed(world);
    }
    for (Hanging { name, since, start, hold }, (kind, words, seconds)) in hanging.into_iter().zip(HEARD) {
        let fault = format!("{kind} that hangs");
        says(&fault, &answer(start), words);
        assert!(since.elapsed() >= Duration::from_secs(seconds), "{fault}: after {:?}", since.elapsed());
        drop(hold);
        world.is_stopped(&fault, &name);
    }
    a_control_that_is_killed(world);
    before.wait_same(&world.daemon, "processes that hang or are killed");
    whole.wait_same(&world.daemon, "processes that hang or are killed");
    world.serves("processes that hang or are killed");
}

/// A start that does not go on, and what holds it.
struct Hanging {
    name: String,
    since: Instant,
    start: JoinHandle<Reply>,
    hold: Hold,
}

fn hang(world: &mut World, kind: &str) -> Hanging {
    let (at, title) = if kind == "opener" { (At::Open, "vmd: opener") } else { (At::Read, "vmd: vm ") };
    let mut hold = Hold::new(at, &world.files(kind).kernel, title);
    hold.arm();
    let name = world.next(kind);
    let (since, start) = (Instant::now(), begin(&name));
    hold.caught();
    if let "vioblk" | "vionet" = kind {
        kill(world.member(kind, &name), Signal::STOP);
        hold.let_go(); // the vm process goes on, and asks it
    }
    Hanging { name, since, start, hold }
}

fn a_priv_that_is_killed(world: &mut World) {
    let name = world.next("vm");
    let asked = |world: &World| world.daemon.log().matches("action: MakeTap").count();
    let (privileged, before) = (world.role("priv"), asked(world));
    kill(privileged, Signal::STOP);
    let start = begin(&name);
    deadline::until("the parent to ask priv", DAEMON, || (asked(world) > before).then_some(()));
    kill(privileged, Signal::KILL);
    says("a priv that is killed", &answer(start), "the priv process ended before it answered");
    world.is_stopped("a priv that is killed", &name);
    let other = |world: &World| world.daemon.in_role("priv").into_iter().find(|it| *it != privileged);
    deadline::until("another priv", DAEMON, || other(world));
}

/// Its client is told nothing more, and its start goes on.
fn a_control_that_is_killed(world: &mut World) {
    let mut hold = Hold::new(At::Read, &world.files("vm").kernel, "vmd: vm ");
    for _ in 0..IN_A_ROW {
        let name = world.next("vm");
        hold.arm();
        let start = begin(&name);
        hold.caught();
        kill(world.role("control"), Signal::KILL);
        says("a control that is killed", &answer(start), "the daemon ended the connection");
        deadline::until("another control", DAEMON, || {
            world.daemon.vmctl(&["status"]).stdout.starts_with(HEADER).then_some(())
        });
        hold.let_go();
        world.daemon.wait_state(&name, "running");
        world.stop(&name);
        world.is_stopped("a control that is killed", &name);
    }
}
