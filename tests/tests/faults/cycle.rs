//! What a client does with a VM, from nothing to nothing, while something else happens to the daemon or to the client.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use testkit::artefacts;
use testkit::deadline::{self, DAEMON};

/// The words of its clients, one after the other.
pub const CYCLE: [&[&str]; 6] = [&["start"], &["status"], &["pause"], &["unpause"], &["status"], &["stop", "-f", "-w"]];

/// A life cycle under way, on a thread of its own.
pub struct Cycle {
    thread: JoinHandle<()>,
    /// The client that runs now.
    client: Arc<Mutex<Option<Child>>>,
}

impl Cycle {
    /// Each client runs to its end, whatever that is; and then what is wanted then.
    pub fn begin(name: &str, then: impl FnOnce() + Send + 'static) -> Self {
        let client = Arc::new(Mutex::new(None));
        let (name, running) = (name.to_owned(), client.clone());
        let thread = std::thread::spawn(move || {
            CYCLE.iter().for_each(|words| run(words, &name, &running));
            then();
        });
        Self { thread, client }
    }

    /// Kills the client that runs now, if one does.
    pub fn kill_client(&self) {
        self.client.lock().expect("no panic").iter_mut().for_each(|it| it.kill().expect("it is ours"));
    }

    pub fn end(self) {
        self.thread.join().expect("vmctl can be run");
    }
}

fn run(words: &[&str], name: &str, running: &Mutex<Option<Child>>) {
    let mut command = Command::new(artefacts::vmctl());
    command.args(words).arg(name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    *running.lock().expect("no panic") = Some(command.spawn().expect("vmctl can be run"));
    deadline::until("the end of a client", DAEMON, || {
        let ended = running.lock().expect("no panic").as_mut().and_then(|child| child.try_wait().expect("it is ours"));
        ended.map(drop)
    });
    *running.lock().expect("no panic") = None;
}
