//! Every message of every pair survives the wire, and no bytes make a receiver do more than refuse them.

use std::fmt::Debug;

use model::*;
use proptest::prelude::*;
use proto::channel::{Message, pair};
use proto::client::*;
use proto::*;

fn failure() -> Failure {
    Failure::new(Code::Busy, "disk \"/a b\": in use")
}

fn name() -> VmName {
    VmName::new("web-1").unwrap()
}

fn memory() -> MemorySize {
    MemorySize::from_bytes(1 << 30).unwrap()
}

fn path() -> UserPath {
    UserPath::new("/srv/a b.img").unwrap()
}

fn start() -> Request {
    Request::Start(Box::new(Start {
        vm: VmRef::Name(name()),
        instance_of: Some(name()),
        memory: Some(memory()),
        cpus: Some(4),
        kernel: Some(path()),
        disks: vec![DiskArg { path: path(), format: Some(DiskFormat::Qcow2) }].try_into().unwrap(),
        cdrom: Some(path()),
        nics: vec![NicArg::Plain, NicArg::Local, NicArg::Switch(SwitchName::new("lan").unwrap())].try_into().unwrap(),
        boot_device: Some(BootDevice::Net),
    }))
}

/// Sends each over a real socket pair with as many descriptors as it is to have, and compares what arrives.
fn travel<M: Message + Debug + PartialEq>(count: usize, messages: Vec<M>) {
    let (mut a, mut b) = pair::<M, M>().unwrap();
    for message in messages {
        assert_eq!(message.fds(), count, "{message:?}");
        let fds = (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        a.send(&message, fds).unwrap();
        match b.recv().unwrap() {
            Received::Message(got, fds) => assert_eq!((&got, fds.len()), (&message, count)),
            other => panic!("{message:?}: {other:?}"),
        }
    }
}

/// Requests without descriptors.
fn requests() -> Vec<Request> {
    let vm = || VmRef::Id(7);
    let Request::Start(start) = start() else { unreachable!() };
    vec![
        Request::List,
        Request::Detail { vm: vm() },
        Request::Start(Box::new(Start { kernel: None, ..*start })),
        Request::Stop { vm: vm(), force: true, wait: false },
        Request::Wait { vm: vm() },
        Request::Order { vm: vm(), order: Order::Pause },
        Request::Order { vm: vm(), order: Order::Unpause },
        Request::Order { vm: vm(), order: Order::Nmi },
        Request::Memory { vm: vm(), size: memory() },
        Request::Cdrom { vm: vm(), medium: Some(path()), force: true },
        Request::Cdrom { vm: vm(), medium: None, force: false },
        Request::DiskFail { vm: vm(), disk: 1, operation: DiskOperation::Flush, count: 7 },
        Request::FlushStop { vm: vm(), disk: 1, count: 7 },
        Request::Log { verbose: true },
        Request::Reload,
        Request::Load { path: path() },
        Request::Reset { vms: true, switches: false },
    ]
}

/// Requests with one: a kernel, or a file to send to or receive from.
fn requests_with_a_file() -> Vec<Request> {
    vec![start(), Request::Send { vm: VmRef::Id(7) }, Request::Receive { name: name() }]
}

fn replies() -> Vec<Reply> {
    let line = VmLine {
        id: 1,
        name: name(),
        description: Description::new("a web server").ok(),
        pid: Some(2),
        cpus: 4,
        memory: memory(),
        used: Some(5 << 20),
        tty: Some(Text::cut("/dev/pts/3")),
        uid: 1000,
        gid: None,
        owner: Text::cut("ann"),
        state: VmState::Running,
        macs: vec![MacAddr([1; 6])].try_into().unwrap(),
        balloon: Some(balloon()),
    };
    vec![
        Reply::Vms(vec![line].try_into().expect("one")),
        Reply::Detail(Detail::default()),
        Reply::Detail(Detail {
            cdrom: Some(path()),
            failure: Some(PastFailure { age: 3, reason: Text::cut("disk \"/d\": no such file") }),
            next: Some(Text::cut("cpus 2 after the next start")),
        }),
        Reply::Done,
        Reply::Started { id: 1, tty: Text::cut("/dev/pts/3") },
        Reply::Accepted { id: 1 },
        Reply::Ended { id: 1 },
        Reply::Wrong(Text::cut("/etc/vm.conf:1:1: unknown word")),
        Reply::Note(Text::cut("vm \"web\" runs: memory 512M after the next start")),
        Reply::Failed(failure()),
    ]
}

#[test]
fn client_and_control() {
    let ask = |request| ToControl::Ask { id: RequestId(3), request };
    travel(0, [ToControl::Hello { version: VERSION }].into_iter().chain(requests().into_iter().map(ask)).collect());
    travel(1, requests_with_a_file().into_iter().map(ask).collect());
    let answers = replies().into_iter().map(|reply| ToClient::Answer { id: RequestId(3), reply });
    let first = [ToClient::hello(), ToClient::WrongVersion { daemon: 1, client: 2 }];
    travel(0, first.into_iter().chain(answers).collect());
}

#[test]
fn an_answer_holds_as_many_of_the_longest_lines_as_it_may() {
    let line = VmLine {
        id: u32::MAX,
        name: VmName::new("n".repeat(63)).unwrap(),
        description: Some(Description::new("d".repeat(model::MAX_DESCRIPTION)).unwrap()),
        pid: Some(u32::MAX),
        cpus: 255,
        memory: MemorySize::MAX,
        used: Some(u64::MAX),
        tty: Some(Text::new(&"t".repeat(64)).unwrap()),
        uid: u32::MAX,
        gid: Some(u32::MAX),
        owner: Text::new(&"o".repeat(80)).unwrap(),
        state: VmState::Stopped,
        macs: vec![MacAddr([255; 6]); model::MAX_NICS].try_into().unwrap(),
        balloon: Some(balloon()),
    };
    let reply = Reply::Vms(vec![line; client::MAX_LINES].try_into().unwrap());
    let answer = control::ToControl::Answer { conn: ConnId(u64::MAX), id: RequestId(u32::MAX), reply };
    travel(0, vec![answer]);
}

#[test]
fn control_and_parent() {
    use control::{ToControl, ToParent};
    let conn = ConnId(u64::MAX);
    let ask = |request| ToParent::Ask { conn, id: RequestId(9), request };
    travel(0, [ToParent::Gone { conn }].into_iter().chain(requests().into_iter().map(ask)).collect());
    let files = requests_with_a_file().into_iter().map(ask);
    travel(1, [ToParent::Connected { conn }].into_iter().chain(files).collect());
    let answers = replies().into_iter().map(|reply| ToControl::Answer { conn, id: RequestId(9), reply });
    let others = [ToControl::Disconnect { conn }, ToControl::Verbose { debug: true }];
    travel(1, vec![ToControl::Listen]);
    travel(0, others.into_iter().chain(answers).collect());
}

#[test]
fn parent_and_opener() {
    use opener::{Asker, FileId, OpenFile, ToOpener, ToParent, What};
    let user = Asker::User { uid: 1000, gid: 1000, groups: vec![4, 27].try_into().unwrap() };
    let whats = [What::Kernel, What::Initrd, What::Cdrom, What::Disk { write: true }, What::Base];
    let opens = whats.map(|what| ToOpener::Open { index: 1, what, path: path() });
    let first = [ToOpener::Become(Asker::Root), ToOpener::Become(user), ToOpener::End];
    travel(0, first.into_iter().chain(opens).collect());
    let id = FileId { device: 1, inode: 2 };
    travel(1, vec![ToParent::Opened { index: 1, file: OpenFile { id, size: 512, block: false } }]);
    let locked = ToParent::Locked { index: 3, id, failure: failure() };
    travel(0, vec![ToParent::Failed { index: 2, failure: failure() }, locked]);
}

#[test]
fn parent_and_probe() {
    use probe::{Base, Found, KernelKind, ToParent, ToProbe};
    let qcow2 = ToProbe::Qcow2 { len: 65536, write: true };
    travel(1, vec![ToProbe::Kernel { memory: MemorySize::DEFAULT }, ToProbe::RawDisk, ToProbe::RawBase, qcow2]);
    let kernels = [KernelKind::BzImage, KernelKind::Pvh].map(|kind| Found::Kernel { kind });
    let formats = [None, Some(DiskFormat::Raw), Some(DiskFormat::Qcow2)];
    let bases = formats.map(|format| Some(Base { name: path(), format }));
    let disks = bases.into_iter().chain([None]).map(|base| Found::Qcow2 { size: 1 << 40, base });
    let found = kernels.into_iter().chain(disks).chain([Found::Raw]).map(ToParent::Found);
    travel(0, found.chain([ToParent::Failed(failure())]).collect());
}

#[test]
fn parent_and_priv() {
    use privileged::{Alias, LocalEnd, TapSpec, ToParent, ToPriv, Undone};
    let (request, name) = (RequestId(4), || IfName::new("tap0").unwrap());
    let alias = || Alias::cut("vm1-if0-web");
    let local = LocalEnd { inet: [100, 64, 1, 2].into(), inet6: Some([0xfd, 0, 0, 0, 0, 0, 0, 1].into()), nat: true };
    let tap = |name, bridge, rdomain: Option<u8>, local| ToPriv::MakeTap {
        request,
        filtered: rdomain.is_some(),
        tap: TapSpec {
            name,
            alias: alias(),
            bridge,
            isolated: false,
            up: true,
            rdomain,
            group: rdomain.map(u32::from),
            local,
        },
    };
    travel(1, vec![tap(None, None, None, None), tap(Some(name()), Some(name()), Some(1), Some(local))]);
    let plain = vec![
        ToPriv::Sweep { request },
        ToPriv::MakeSwitch { request, bridge: name(), alias: alias(), external: true, up: false, rdomain: Some(255) },
        ToPriv::RemoveSwitch { bridge: name() },
        ToPriv::Look { filtered: true },
        ToPriv::TapGone { name: name() },
        ToPriv::Verbose { debug: true },
    ];
    travel(0, plain);
    travel(1, vec![ToParent::TapMade { request, name: name(), mac: MacAddr([1; 6]) }]);
    let plain = vec![
        ToParent::SwitchMade { request, created: true },
        ToParent::Removed { request },
        ToParent::PutBack { name: name(), undone: Undone::Master, gave_up: false },
        ToParent::PutBack { name: name(), undone: Undone::Up, gave_up: true },
        ToParent::PutBack { name: name(), undone: Undone::Address, gave_up: false },
        ToParent::Failed { request, failure: failure() },
    ];
    travel(0, plain);
}

/// One of each kind.
fn devices() -> Vec<device::Spec> {
    use device::{Blk, Local, Net, Spec, Told};
    let local = Local {
        host_mac: MacAddr([2; 6]),
        host: [100, 64, 1, 2].into(),
        guest: [100, 64, 1, 3].into(),
        name_servers: List::try_from(vec![[192, 0, 2, 53].into(); 3]).unwrap(),
        net_boot: true,
    };
    let blk = Blk {
        format: DiskFormat::Qcow2,
        bases: List::try_from(vec![DiskFormat::Qcow2, DiskFormat::Raw]).unwrap(),
        read_only: true,
        limits: DiskLimits { iops: Rate::new(100, 200), bandwidth: Rate::new(1 << 20, 1 << 30) },
        serial: Text::cut("web-1-disk0"),
        called: Text::cut("/srv/a.img"),
    };
    let net = Net { mac: MacAddr([1; 6]), locked: true, guarded: false, local: Some(local) };
    let balloon = Told::Balloon(device::Balloon { memory: memory() });
    let cdrom = |medium| {
        let (serial, called) = (Text::cut("cdrom0-web"), Text::cut("/srv/a.iso"));
        Told::Cdrom(device::Cdrom { serial, medium, called, open: !medium })
    };
    let told = [Told::Blk(blk), Told::Net(net), balloon, cdrom(true), cdrom(false)];
    (0..).zip(told).map(|(number, told)| Spec { number, told }).collect()
}

fn insert() -> device::Ask {
    device::Ask::Insert { called: path(), force: true }
}

#[test]
fn a_device_is_called_by_its_role_and_number() {
    assert_eq!(
        devices().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["vioblk0", "vionet1", "vioballoon2", "vioscsi3", "vioscsi4"]
    );
}

#[test]
fn parent_and_vmm() {
    use vmm::*;
    let vm = VmId(1);
    let request = RequestId(4);
    let device = |spec| ToVmm::StartDevice { vm, device: 1, spec: Box::new(spec) };
    for spec in devices() {
        travel(spec.fds(), vec![device(spec)]);
    }
    assert_eq!(devices().iter().map(device::Spec::fds).collect::<Vec<_>>(), [3, 1, 0, 1, 0]);
    let start = |initrd, cgroup| {
        ToVmm::StartVm(Box::new(StartVm {
            vm,
            name: name(),
            memory: memory(),
            cpus: 4,
            kernel: probe::KernelKind::Pvh,
            cmdline: CommandLine::new("console=ttyS0").unwrap(),
            initrd,
            vmmci: initrd,
            device_restarts: 3,
            cgroup,
            user: cgroup.then_some(u32::MAX),
            maker: cgroup.then_some(1000),
            devices: 2,
            bases: 2,
        }))
    };
    travel(1, vec![ToVmm::Kvm, ToVmm::Psp, ToVmm::StartEnd { vm }]);
    travel(3, vec![start(false, false)]);
    travel(4, vec![start(true, false), start(false, true)]);
    travel(5, vec![start(true, true)]);
    let plain = vec![
        ToVmm::Config(Config { debug: true }),
        ToVmm::StartCancel { vm },
        ToVmm::Terminate { request, vm, how: Stop::Force },
        ToVmm::Terminate { request, vm, how: Stop::Graceful { seconds: 120 } },
        ToVmm::Info { request },
        ToVmm::Order { request, vm, order: Order::Pause },
        ToVmm::Order { request, vm, order: Order::Unpause },
        ToVmm::Order { request, vm, order: Order::Nmi },
        ToVmm::AskDevice { request, vm, device: 29, ask: device::Ask::Memory(memory()) },
        ToVmm::AskDevice { request, vm, device: 29, ask: device::Ask::Eject { force: true } },
        ToVmm::Verbose { debug: true },
    ];
    travel(0, plain);
    travel(1, vec![ToVmm::AskDevice { request, vm, device: 0, ask: insert() }]);
    let answers = vec![
        ToParent::StartDone { vm, result: Ok(5) },
        ToParent::StartDone { vm, result: Err(failure()) },
        ToParent::TerminateDone { request, vm, result: Ok(()) },
        ToParent::Leaving { vm, reboot: true },
        ToParent::Ended { vm, end: End::PoweredOff },
        ToParent::Ended { vm, end: End::Rebooted },
        ToParent::Ended { vm, end: End::Failed(failure()) },
        ToParent::Info { request, vm, pid: 9, cpus: 1, memory: memory() },
        ToParent::Report { vm, device: 29, report: report() },
        ToParent::DeviceDone { request, vm, result: Ok(()) },
        ToParent::DeviceDone { request, vm, result: Err(failure()) },
        ToParent::InfoEnd { request },
        ToParent::OrderDone { order: Order::Pause, request, vm, result: Ok(true) },
        ToParent::OrderDone { order: Order::Unpause, request, vm, result: Err(failure()) },
    ];
    travel(0, answers);
}

fn balloon() -> client::Balloon {
    let device::Report::Memory(report) = report();
    client::Balloon { wanted: MemorySize::MAX, report: Some((u32::MAX, report)) }
}

fn report() -> device::Report {
    let statistics = [Some(u64::MAX); device::STATISTICS.len()];
    device::Report::Memory(device::MemoryReport { taken: u64::MAX, statistics })
}

#[test]
fn vmm_and_vm() {
    use vm::*;
    let describe = |initrd| {
        ToVm::Describe(Box::new(Description {
            name: name(),
            memory: memory(),
            cpus: 1,
            kernel: probe::KernelKind::BzImage,
            cmdline: CommandLine::new("quiet").unwrap(),
            initrd,
            vmmci: initrd,
            devices: 2,
            debug: false,
        }))
    };
    travel(4, vec![describe(false)]);
    travel(5, vec![describe(true)]);
    let front = device::Front { virtio_id: 1, queues: 2, queue_size: 256, config_len: 12 };
    travel(1, vec![ToVm::Device { device: 1, front }]);
    let plain = vec![
        ToVm::Begin,
        ToVm::AskToStop,
        ToVm::Order(Order::Pause),
        ToVm::Order(Order::Unpause),
        ToVm::Order(Order::Nmi),
        ToVm::Verbose { debug: true },
    ];
    travel(0, plain);
    travel(0, vec![ToVm::ConfigChanged { device: 29 }]);
    let answers = vec![
        ToVmm::Started,
        ToVmm::Failed(failure()),
        ToVmm::Leaving { reboot: false },
        ToVmm::Ended { status: exit::REBOOTED },
        ToVmm::Pausing,
        ToVmm::Done(Order::Pause, Ok(true)),
        ToVmm::Done(Order::Unpause, Err(failure())),
    ];
    travel(0, answers);
}

#[test]
fn vmm_and_device() {
    use device::{ToDevice, ToVmm};
    let start = |spec| ToDevice::Start { vm: name(), spec: Box::new(spec), debug: true };
    for spec in devices() {
        travel(spec.fds() + 2 + usize::from(spec.keeps() > 0), vec![start(spec)]);
    }
    travel(0, vec![ToDevice::Ask(device::Ask::Memory(memory())), ToDevice::Verbose { debug: false }]);
    travel(1, vec![ToDevice::Ask(insert())]);
    let answered = |changed| ToVmm::Answered { changed, result: if changed { Ok(()) } else { Err(failure()) } };
    let report = ToVmm::Report(report());
    travel(0, vec![ToVmm::Ready, ToVmm::Failed(failure()), answered(true), answered(false), ToVmm::Ended, report]);
}

#[test]
fn parent_and_agentx() {
    use agentx::{Context, Row, ToAgentX, ToParent};
    let row = Row {
        vm: VmId(u32::MAX),
        name: VmName::new("x".repeat(63)).unwrap(),
        state: VmState::Running,
        disabled: true,
        cpus: 64,
        memory: MemorySize::MAX,
        used: Some(u64::MAX),
    };
    let rows = vec![row; agentx::MAX_ROWS].try_into().unwrap();
    travel(0, vec![ToParent::Connect, ToParent::List { request: RequestId(3) }]);
    travel(1, vec![ToAgentX::Connected]);
    let plain = vec![
        ToAgentX::Serve { context: Some(Context::new("lab").unwrap()) },
        ToAgentX::NotConnected { failure: failure() },
        ToAgentX::Vms { request: RequestId(3), rows },
        ToAgentX::VmsEnd { request: RequestId(3) },
        ToAgentX::Verbose { debug: true },
    ];
    travel(0, plain);
}

/// Decodes as each type that a process reads from a less trusted one. A panic, or an endless loop, fails the test.
fn decode_all(bytes: &[u8]) {
    let _ = postcard::from_bytes::<ToControl>(bytes);
    let _ = postcard::from_bytes::<ToClient>(bytes);
    let _ = postcard::from_bytes::<control::ToParent>(bytes);
    let _ = postcard::from_bytes::<opener::ToOpener>(bytes);
    let _ = postcard::from_bytes::<opener::ToParent>(bytes);
    let _ = postcard::from_bytes::<probe::ToParent>(bytes);
    let _ = postcard::from_bytes::<privileged::ToPriv>(bytes);
    let _ = postcard::from_bytes::<privileged::ToParent>(bytes);
    let _ = postcard::from_bytes::<vmm::ToVmm>(bytes);
    let _ = postcard::from_bytes::<vmm::ToParent>(bytes);
    let _ = postcard::from_bytes::<vm::ToVm>(bytes);
    let _ = postcard::from_bytes::<vm::ToVmm>(bytes);
    let _ = postcard::from_bytes::<device::ToDevice>(bytes);
    let _ = postcard::from_bytes::<device::ToVmm>(bytes);
    let _ = postcard::from_bytes::<agentx::ToAgentX>(bytes);
    let _ = postcard::from_bytes::<agentx::ToParent>(bytes);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        decode_all(&bytes);
    }

    #[test]
    fn a_message_with_a_byte_changed_or_cut_is_decoded_or_refused(at in any::<u16>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = postcard::to_stdvec(&ToControl::Ask { id: RequestId(3), request: start() }).unwrap();
        let at = usize::from(at) % bytes.len();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        decode_all(&bytes);
    }
}
