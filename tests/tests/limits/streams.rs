//! Descriptors that come with requests: what is refused closes them at once, in every process that they passed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;

use model::{List, Text, VmName};
use proto::Received;
use proto::client::{Reply, Request, Start, ToClient, VmRef};
use rustix::fs::{OFlags, fcntl_setfl};
use testkit::apart::apart;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};

use crate::socket::{Client, ask, greeted, web};
use crate::world::{Quiet, ends};

const CONFIGURATION: &str = "vm \"web\" {\n\tdisable\n\tboot \"/etc/passwd\"\n}\n";

/// Asks with a descriptor, and gives the words of the refusal.
fn refusal(client: &mut Client, request: Request, with: OwnedFd) -> String {
    client.send(&ask(1, request), vec![with]).expect("sent");
    match client.recv_within(DAEMON) {
        Ok(Received::Message(ToClient::Answer { reply: Reply::Failed(failure), .. }, _)) => failure.to_string(),
        other => panic!("no refusal: {other:?}"),
    }
}

fn name(text: &str) -> VmName {
    VmName::new(text).expect("a name")
}

fn with_kernel(vm: &str) -> Request {
    Request::Start(Box::new(Start {
        vm: VmRef::Name(name(vm)),
        instance_of: Some(name("no-such")),
        memory: None,
        cpus: None,
        kernel: Some(Text::new("/kernel").expect("a path")),
        disks: List::default(),
        cdrom: None,
        nics: List::default(),
        boot_device: None,
    }))
}

/// The connection stays open all the while, so that it is not its end that closes.
#[test]
fn send_and_receive_are_refused_with_a_clear_word_and_what_came_with_them_is_closed() {
    apart("streams::send_and_receive_are_refused_with_a_clear_word_and_what_came_with_them_is_closed", || {
        let daemon = Daemon::start_quietly(CONFIGURATION);
        let quiet = Quiet::of(&daemon);
        let later = |what: &str| format!("{what} is not supported by this release");
        for (request, words) in [
            (Request::Send { vm: web() }, later("send")),
            (Request::Send { vm: VmRef::Id(1) }, later("send")),
            (Request::Send { vm: VmRef::Id(77) }, "vm 77 not found".to_owned()),
            (Request::Send { vm: VmRef::Name(name("nobody")) }, "vm \"nobody\" not found".to_owned()),
            (Request::Receive { name: name("new") }, later("receive")),
            (with_kernel("new"), "no-such".to_owned()),
        ] {
            let mut client = greeted();
            let (mut ours, theirs) = std::io::pipe().expect("a pipe");
            fcntl_setfl(&ours, OFlags::NONBLOCK).expect("it is ours");
            let said = refusal(&mut client, request.clone(), theirs.into());
            assert!(said.contains(&words), "{request:?}: {said:?}");
            deadline::until(format!("nobody to hold what came with {request:?}"), DAEMON, || {
                match ours.read(&mut [0]) {
                    Ok(0) => Some(()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                    other => panic!("{request:?}: {other:?}"),
                }
            });
            // The same where it is read from, as a state to receive is.
            let (theirs, mut ours) = std::io::pipe().expect("a pipe");
            refusal(&mut client, request.clone(), theirs.into());
            deadline::until(format!("nobody to read what came with {request:?}"), DAEMON, || {
                ours.write(b"state").is_err_and(|error| error.kind() == ErrorKind::BrokenPipe).then_some(())
            });
        }
        quiet.again();
        ends(daemon);
    });
}
