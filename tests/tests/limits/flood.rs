//! One user asks as fast as it can, on as many connections as it may have: root is answered all the same, and the daemon ends
//! when it is told to.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::MemorySize;
use proto::Received;
use proto::client::{Order, Reply, Request, ToClient};
use rustix::process::{Gid, Signal, Uid};
use testkit::apart::apart;
use testkit::daemon::Daemon;
use testkit::deadline::DAEMON;

use crate::socket::{Client, ask, greeted, start, web};
use crate::world::gone;

/// Whose they are.
const USER: u32 = 65534;
/// Connections of one user, less those that a test may need; and requests that each has open (openbsd/daemon.md, 4.1).
const CONNECTIONS: usize = 60;
const OPEN: u32 = 8;
/// Requests of the flood that are answered between root's question and its answer, at most: all that it had open before,
/// and as many that took their places.
const MAX_BETWEEN: u64 = 2 * CONNECTIONS as u64 * OPEN as u64;

/// Lines of the log in 10 s: of the VM's user, of each process that says something of it, and of the tests' own requests.
const MAX_LINES: usize = 60;

/// Of that user is a VM that can't start: its disk is not there.
const CONFIGURATION: &str = "socket owner nobody\nvm \"web\" {\n\tdisable\n\towner nobody\n\tboot \"/etc/passwd\"\n\tdisk \"/mnt/disk.img\"\n}\n";

/// What the threads of a flood share.
#[derive(Default)]
struct Flood {
    answered: AtomicU64,
    over: AtomicBool,
}

impl Flood {
    /// All connections in one thread, which is that user's: the kernel tells who connected.
    fn run(&self, request: impl Fn() -> Request) {
        rustix::thread::set_thread_res_gid(Gid::from_raw(USER), Gid::from_raw(USER), Gid::from_raw(USER))
            .expect("root");
        rustix::thread::set_thread_res_uid(Uid::from_raw(USER), Uid::from_raw(USER), Uid::from_raw(USER))
            .expect("root");
        let mut clients: Vec<(Client, u32)> = (0..CONNECTIONS).map(|_| (greeted(), 0)).collect();
        for (client, last) in &mut clients {
            (0..OPEN).for_each(|_| more(client, last, request()));
        }
        while !self.over.load(Ordering::Relaxed) {
            for (client, last) in &mut clients {
                loop {
                    match client.recv() {
                        Ok(Received::Message(ToClient::Answer { reply: Reply::Vms(_), .. }, _)) => {}
                        Ok(Received::Message(ToClient::Answer { .. }, _)) => {
                            self.answered.fetch_add(1, Ordering::Relaxed);
                            more(client, last, request());
                        }
                        Ok(Received::Empty) => break,
                        _ => return, // the daemon ended
                    }
                }
            }
        }
    }
}

/// The flood ends with it.
struct Over<'a>(&'a Flood);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn more(client: &mut Client, last: &mut u32, request: Request) {
    *last += 1;
    let _ = client.send(&ask(*last, request), vec![]); // a daemon that ended is noticed by reading
}

/// How long root waits for the list, and how much of the flood is answered meanwhile.
fn list(client: &mut Client, number: u32, flood: &Flood) -> (Duration, u64) {
    let (asked, before) = (Instant::now(), flood.answered.load(Ordering::Relaxed));
    client.send(&ask(number, Request::List), vec![]).expect("sent");
    loop {
        match client.recv_within(DAEMON).expect("an answer") {
            Received::Message(ToClient::Answer { reply: Reply::Done, .. }, _) => break,
            Received::Message(..) => {}
            other => panic!("{other:?}"),
        }
    }
    (asked.elapsed(), flood.answered.load(Ordering::Relaxed) - before)
}

fn while_flooded(what: &str, request: impl Fn() -> Request + Sync, then: impl FnOnce(&Flood)) {
    let flood = Flood::default();
    std::thread::scope(|scope| {
        let _over = Over(&flood); // also when this fails: the scope waits for its threads
        scope.spawn(|| flood.run(&request));
        let mut root = greeted();
        while flood.answered.load(Ordering::Relaxed) < MAX_BETWEEN {
            std::thread::yield_now();
        }
        let waits: Vec<(Duration, u64)> = (1..=30).map(|number| list(&mut root, number, &flood)).collect();
        let (mut times, mut counts): (Vec<Duration>, Vec<u64>) = waits.into_iter().unzip();
        times.sort();
        counts.sort();
        println!(
            "{what}: root is answered after {:?}, at worst {:?}; of the flood {} are meanwhile, at worst {}",
            times[15], times[29], counts[15], counts[29]
        );
        // The worst is also how long the machine let this thread wait.
        assert!(counts[15] <= MAX_BETWEEN, "{what}: {} requests of the flood were answered before root's", counts[15]);
        then(&flood);
    });
}

#[test]
fn a_users_flood_of_each_request_holds_neither_root_nor_the_end_up() {
    apart("flood::a_users_flood_of_each_request_holds_neither_root_nor_the_end_up", || {
        std::fs::write("/mnt/disk.img", [0; 512]).expect("it is ours");
        let daemon = Daemon::start_quietly(CONFIGURATION);
        std::fs::remove_file("/mnt/disk.img").expect("it is there");
        let (began, lines) = (Instant::now(), || daemon.log().lines().count());
        let before = lines();
        let stop = || Request::Stop { vm: web(), force: true, wait: false };
        while_flooded("list", || Request::List, |_| ());
        while_flooded("stop", stop, |_| ());
        while_flooded("wait", || Request::Wait { vm: web() }, |_| ());
        while_flooded("order", || Request::Order { vm: web(), order: Order::Nmi }, |_| ());
        while_flooded("memory", || Request::Memory { vm: web(), size: MemorySize::DEFAULT }, |_| ());
        while_flooded("reload", || Request::Reload, |_| ());
        while_flooded("log", || Request::Log { verbose: true }, |_| ());
        while_flooded(
            "start",
            || Request::Start(Box::new(start())),
            |flood| {
                let logged = lines() - before;
                let windows = usize::try_from(began.elapsed().as_secs() / 10).expect("few") + 2;
                println!("{logged} lines in the log in {windows} times 10 s");
                assert!(logged <= MAX_LINES * windows, "{logged} lines in {windows} times 10 s");
                let (told, before) = (Instant::now(), flood.answered.load(Ordering::Relaxed));
                daemon.signal(Signal::TERM);
                gone();
                let answered = flood.answered.load(Ordering::Relaxed) - before;
                println!("end: {:?}, of the flood meanwhile {answered}", told.elapsed());
                assert!(answered <= 10 * MAX_BETWEEN, "{answered}");
            },
        );
    });
}
