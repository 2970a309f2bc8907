//! priv, control and agentx as their pages say: ids, capabilities, filter, and the descriptors they hold while they serve.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use model::{IfName, VmName};
use proto::agentx::{Row, ToAgentX, ToParent as FromAgentX};
use proto::client::{ToClient, ToControl as FromClient, VERSION, VmState};
use proto::privileged::{Alias, LocalEnd, TapSpec, ToParent as FromPriv, ToPriv};
use proto::{Channel, Message, Received, RequestId, VmId, control};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use sys::child::{Child, Exit};
use sys::exe::Executable;
use sys::spawn::Spawn;

use crate::world::{nothing_is_left, own_world};

const PATIENCE: Duration = Duration::from_secs(30);

struct Role<Tx, Rx> {
    child: Child,
    channel: Channel<Tx, Rx>,
}

impl<Tx: Message, Rx: Message> Role<Tx, Rx> {
    fn start(role: &str, extra: Option<OwnedFd>) -> Self {
        let exe = Executable::open(env!("CARGO_BIN_EXE_vmd").as_ref()).expect("vmd");
        let title = format!("vmd: {role}");
        let (channel, theirs) = proto::channel::pair::<Tx, Rx>().expect("pair");
        let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
        let argv = [title.as_str(), "-x", role];
        let mut spawn = Spawn::new(&exe, &argv).fd(0, null.as_fd()).fd(1, null.as_fd()).fd(2, null.as_fd());
        spawn = spawn.fd(3, theirs.into_socket());
        if let Some(extra) = extra {
            spawn = spawn.fd(4, extra);
        }
        Self { child: spawn.spawn().expect("started"), channel }
    }

    fn say(&mut self, message: Tx, fds: Vec<OwnedFd>) {
        self.channel.send(&message, fds).expect("sent");
    }

    fn hear(&mut self) -> (Rx, Vec<OwnedFd>) {
        hear(&mut self.channel)
    }

    fn status(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.pid())).expect("status");
        let line = text.lines().find(|line| line.split(':').next() == Some(name)).expect("the line");
        line.split_once(':').expect("a colon").1.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What its descriptors are, without the numbers of sockets and pipes.
    fn descriptors(&self) -> Vec<String> {
        let folder = format!("/proc/{}/fd", self.child.pid());
        let what = |entry: std::io::Result<std::fs::DirEntry>| {
            let target = std::fs::read_link(entry.expect("entry").path()).expect("link");
            target.to_string_lossy().split(":[").next().unwrap_or_default().replace("anon_inode", "")
        };
        let mut all: Vec<String> = std::fs::read_dir(folder).expect("descriptors").map(what).collect();
        all.sort();
        all
    }

    /// Its mounts are an empty root, which it can't change, and the same once more over it, so that it can make no user
    /// namespace.
    fn has_an_empty_root(&self) {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", self.child.pid())).expect("mounts");
        let mounts: Vec<&str> = mounts.lines().collect();
        assert!(
            matches!(mounts.as_slice(), [one, same] if one == same && one.starts_with("none / tmpfs ro,")),
            "{mounts:?}"
        );
        let entries = std::fs::read_dir(format!("/proc/{}/root", self.child.pid())).expect("root").count();
        assert_eq!(entries, 0);
    }

    fn end(self) -> Exit {
        let Self { mut child, channel } = self;
        drop(channel);
        child.wait().expect("waited")
    }
}

fn hear<Tx: Message, Rx: Message>(channel: &mut Channel<Tx, Rx>) -> (Rx, Vec<OwnedFd>) {
    match channel.recv_within(PATIENCE).expect("an answer") {
        Received::Message(message, fds) => (message, fds),
        Received::Empty | Received::Closed => panic!("it ended instead of an answer"),
    }
}

fn make_switch(request: u32) -> ToPriv {
    let bridge = IfName::new("bridge0").expect("a name");
    let alias = Alias::new("switch1-lan").expect("an alias");
    ToPriv::MakeSwitch { request: RequestId(request), bridge, alias, external: false, up: true, rdomain: None }
}

fn make_tap(request: u32, local: Option<LocalEnd>) -> (ToPriv, Vec<OwnedFd>) {
    let alias = Alias::new("vm1-if0-web").expect("an alias");
    let bridge = local.is_none().then(|| IfName::new("bridge0").expect("a name"));
    let tun = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    sys::waits::never(&tun).expect("it is ours"); // as the parent opens it
    let tap = TapSpec { name: None, alias, bridge, isolated: false, up: true, rdomain: None, group: None, local };
    (ToPriv::MakeTap { request: RequestId(request), tap, filtered: false }, vec![tun.into()])
}

#[test]
fn priv_is_confined_and_holds_what_its_page_says() {
    let _world = own_world(true);
    let mut role: Role<ToPriv, FromPriv> = Role::start("priv", None);
    role.say(make_switch(1), vec![]);
    assert!(matches!(role.hear().0, FromPriv::SwitchMade { .. }));
    let (message, fds) = make_tap(2, None);
    role.say(message, fds);
    let (made, tap) = role.hear();
    assert!(matches!(made, FromPriv::TapMade { .. }), "{made:?}");
    role.say(make_switch(3), vec![]);
    role.hear();

    assert_eq!(role.status("Name"), "vmd-priv");
    assert_eq!(role.status("Uid"), "0 0 0 0");
    assert_eq!(role.status("CapEff"), format!("{:016x}", 1u64 << 12), "CAP_NET_ADMIN");
    assert_eq!((role.status("CapBnd"), role.status("NoNewPrivs")), ("0".repeat(16), "1".into()));
    assert_eq!(role.status("Seccomp"), "2");
    role.has_an_empty_root();
    let null = "/dev/null";
    let settings = "/"; // of IPv6: the root of a mount that has no other name
    let held = ["", "", settings, null, null, null, "socket", "socket", "socket", "socket", "socket"];
    assert_eq!(role.descriptors(), held);
    assert_eq!(role.end(), Exit::Code(0));
    nothing_is_left();
    drop(tap);
}

#[test]
fn priv_confined_as_it_is_has_ipv6_forwarded_and_takes_it_back() {
    let _world = own_world(true);
    let value = |path: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{path}")).ok();
        text.map(|text| text.trim().to_owned())
    };
    let forced = value("all/force_forwarding").is_some();
    assert_eq!(value("all/forwarding").as_deref(), Some("0"));
    let mut role: Role<ToPriv, FromPriv> = Role::start("priv", None);
    let inet6 = Some([0xfd00, 0, 0, 1, 0x6440, 0x103, 0, 1].into());
    let local = LocalEnd { inet: [100, 64, 1, 2].into(), inet6, nat: true };
    let (message, fds) = make_tap(1, Some(local));
    role.say(message, fds);
    let (made, tap) = role.hear();
    assert!(matches!(made, FromPriv::TapMade { .. }), "{made:?}");
    let switched = if forced { value("tap0/force_forwarding") } else { value("all/forwarding") };
    assert_eq!(switched.as_deref(), Some("1"));
    assert_eq!(role.end(), Exit::Code(0));
    assert_eq!(value("all/forwarding").as_deref(), Some("0"));
    nothing_is_left();
    drop(tap);
}

#[test]
fn control_is_confined_and_holds_what_its_page_says() {
    let world = own_world(true);
    let address = SocketAddrUnix::new(world.path().join("vmd.sock")).expect("an address");
    let socket =
        || socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
    let listener = socket();
    bind(&listener, &address).expect("bound");
    listen(&listener, 5).expect("listens");
    sys::waits::never(&listener).expect("it is ours"); // as the parent makes it
    let mut role: Role<control::ToControl, control::ToParent> = Role::start("control", Some(listener));
    let stream = socket();
    connect(&stream, &address).expect("connected");
    let mut client: Channel<FromClient, ToClient> = Channel::new(stream);
    client.send(&FromClient::Hello { version: VERSION }, vec![]).expect("sent");
    assert_eq!(hear(&mut client).0, ToClient::hello());
    assert!(matches!(role.hear(), (control::ToParent::Connected { .. }, fds) if fds.len() == 1));

    assert!(!role.status("Uid").starts_with("0 "));
    assert_eq!((role.status("CapEff"), role.status("CapBnd")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!((role.status("NoNewPrivs"), role.status("Seccomp")), ("1".into(), "2".into()));
    role.has_an_empty_root();
    let null = "/dev/null";
    let held = ["", "", null, null, null, "socket", "socket", "socket"];
    assert_eq!(role.descriptors(), held, "channel, listening socket, one client");

    // Nonsense under its filter: refused and logged, and it lives.
    sys::seqpacket::send(client.as_fd(), &[0xff; 9], &[]).expect("sent");
    assert!(matches!(hear(&mut client).0, ToClient::Answer { .. }));
    assert!(matches!(role.hear().0, control::ToParent::Gone { .. }));
    assert_eq!(role.end(), Exit::Code(0));
}

/// A whole packet of agentx: its type, session, number, and payload (RFC 2741, 6.1, in network byte order).
fn packet_of(stream: &mut UnixStream) -> (u8, u32, u32, Vec<u8>) {
    let mut header = [0; 20];
    stream.read_exact(&mut header).expect("a header");
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let mut payload = vec![0; usize::try_from(word(16)).expect("a length")];
    stream.read_exact(&mut payload).expect("a payload");
    (header[1], word(4), word(12), payload)
}

fn packet_to(stream: &mut UnixStream, kind: u8, packet: u32, payload: &[u8]) {
    let numbers = [7, 0, packet, u32::try_from(payload.len()).expect("short")];
    let header = [[1, kind, 16, 0].to_vec(), numbers.iter().flat_map(|number| number.to_be_bytes()).collect()].concat();
    stream.write_all(&[header.as_slice(), payload].concat()).expect("written");
}

#[test]
fn agentx_is_confined_and_holds_what_its_page_says() {
    let _world = own_world(true);
    let mut role: Role<ToAgentX, FromAgentX> = Role::start("agentx", None);
    role.say(ToAgentX::Serve { context: None }, vec![]);
    assert_eq!(role.hear().0, FromAgentX::Connect);
    let (mut master, theirs) = UnixStream::pair().expect("a pair");
    master.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    theirs.set_nonblocking(true).expect("it does not block");
    role.say(ToAgentX::Connected, vec![theirs.into()]);
    for (kind, name) in [(1, "open"), (3, "register")] {
        let (got, _, packet, _) = packet_of(&mut master);
        assert_eq!(got, kind, "{name}");
        packet_to(&mut master, 18, packet, &[0; 8]);
    }

    assert_eq!(role.status("Name"), "vmd-agentx");
    assert!(!role.status("Uid").starts_with("0 "));
    assert_eq!((role.status("CapEff"), role.status("CapBnd")), ("0".repeat(16), "0".repeat(16)));
    assert_eq!((role.status("NoNewPrivs"), role.status("Seccomp")), ("1".into(), "2".into()));
    role.has_an_empty_root();
    let null = "/dev/null";
    assert_eq!(role.descriptors(), ["", "", null, null, null, "socket", "socket"], "channel and master");

    // vmName of the first VM, under its filter; and nonsense, which costs it the session and not its life.
    let name = [1, 3, 6, 1, 2, 1, 236, 1, 4, 1, 2].iter().flat_map(|subid: &u32| subid.to_be_bytes());
    let range: Vec<u8> = [11, 0, 0, 0].into_iter().chain(name).chain([0; 4]).collect();
    packet_to(&mut master, 6, 9, &range);
    let (message, _) = role.hear();
    let FromAgentX::List { request } = message else { panic!("{message:?}") };
    let name = VmName::new("web").expect("a name");
    let row = Row {
        vm: VmId(1),
        name,
        state: VmState::Running,
        disabled: false,
        cpus: 1,
        memory: model::MemorySize::LEAST_BOOTABLE,
        used: None,
    };
    role.say(ToAgentX::Vms { request, rows: vec![row].try_into().expect("one") }, vec![]);
    role.say(ToAgentX::VmsEnd { request }, vec![]);
    let (kind, session, packet, payload) = packet_of(&mut master);
    assert_eq!((kind, session, packet, &payload[payload.len() - 4..]), (18, 7, 9, b"web\0".as_slice()));
    master.write_all(&[0xff; 64]).expect("written");
    let (kind, _, _, payload) = packet_of(&mut master);
    assert_eq!((kind, payload[0]), (2, 5), "it takes its leave");
    assert_eq!(role.hear().0, FromAgentX::Connect, "and asks for another");
    assert_eq!(role.end(), Exit::Code(0));
}
