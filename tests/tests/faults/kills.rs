//! SIGKILL at any moment of a VM's life cycle: of control, priv, agentx or a client it leaves guests running and the daemon serving;
//! of vmm or the parent it ends all VMs, and the next daemon starts as if there had been none.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::census::Census;
use testkit::daemon;
use testkit::deadline::{self, DAEMON};
use testkit::process::Process;

use crate::cycle::Cycle;
use crate::world::{ROUNDS, World, kill};

/// How often vmm, and the parent, are killed: each time all begins anew.
const ENDS: u32 = 12;

/// Moments of a cycle, the same in each run of the test.
struct Moments(u64);

impl Moments {
    /// One before `longest` has passed (a linear congruential generator: Knuth, volume 2, 3.3.4, MMIX).
    fn next(&mut self, longest: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        longest.mul_f64((self.0 >> 40) as f64 / f64::from(1 << 24))
    }
}

/// For a world whose agentx may be killed: it looks for a master that is not there.
pub const AGENTX: &str = "agentx path \"/run/nobody\"\n";

/// The parts that the guests outlive.
pub fn survived(world: &mut World) {
    let mut moments = Moments(9);
    let mut longest = Duration::from_millis(500);
    let mut round = 0;
    let rounds = ROUNDS * testkit::long() as usize;
    world.rounds(("a kill -9 during a life cycle", "vm"), rounds, |world, name| {
        let victim = ["control", "priv", "agentx", "client"][round % 4];
        round += 1;
        let begin = Instant::now();
        let cycle = Cycle::begin(name, || ());
        std::thread::sleep(moments.next(longest)); // the moment that is tried
        match victim {
            "client" => cycle.kill_client(),
            role => kill(world.role(role), Signal::KILL),
        }
        cycle.end();
        longest = longest.max(begin.elapsed().min(Duration::from_secs(5)));
        serves_again(world, victim);
        world.ends(name);
    });
}

/// The role is there again, and clients are answered.
pub fn serves_again(world: &World, victim: &str) {
    deadline::until(format!("{victim} to serve again"), DAEMON, || {
        let there = victim == "client" || world.daemon.in_role(victim).len() == 1;
        (there && world.daemon.vmctl(&["status"]).status == Some(0)).then_some(())
    });
}

/// Nothing of the daemon runs on, but for its first process where that is still to be reaped.
pub fn all_end(world: &World, killed: &str) {
    deadline::until(format!("the end of all after a kill of {killed}"), DAEMON, || {
        let left: Vec<Process> = Process::of_vmd();
        left.iter().all(|it| it.pid == world.daemon.process().pid).then_some(())
    });
}

/// Those that no guest outlives.
pub fn the_end() {
    let mut moments = Moments(7);
    let nothing = Census::take();
    for role in ["vmm", "parent"] {
        for _ in 0..ENDS * testkit::long() {
            let mut world = World::new("", &[]);
            let name = world.next("vm");
            let cycle = Cycle::begin(&name, || ());
            std::thread::sleep(moments.next(Duration::from_secs(1))); // the moment that is tried
            kill(if role == "parent" { world.daemon.process() } else { world.role(role) }, Signal::KILL);
            cycle.end();
            all_end(&world, role);
        }
    }
    // What the last left goes with the next start.
    let next = World::new("", &[]);
    next.stop("other");
    assert!(next.daemon.stop().success(), "the next vmd ends well");
    nothing.wait_same();
    assert_ne!(daemon::vmctl(&["status"]).status, Some(0), "nobody is there");
}
