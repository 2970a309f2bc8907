//! What the log is told of requests, starts and networks, and how grave it is.

use sys::log::{Level, Weight};

use super::*;

fn ann() -> Who {
    Who { uid: 1000, gid: 1000, groups: vec![] }
}

/// The last request's line: of which VM, what was asked, why it was refused.
fn recorded(f: &mut Fixture) -> (Option<String>, String, Option<String>) {
    match f.recorded.as_slice() {
        [Action::Asked { uid: 1000, vm, what, refused }] => {
            (vm.as_ref().map(ToString::to_string), what.clone(), refused.clone())
        }
        other => panic!("not one line: {other:?}"),
    }
}

fn told(vm: Option<&str>, what: &str, refused: Option<&str>) -> (Option<String>, String, Option<String>) {
    (vm.map(str::to_owned), what.to_owned(), refused.map(str::to_owned))
}

#[test]
fn the_log_says_who_asked_for_what_and_what_was_refused() {
    let mut f = Fixture::new(vec![definition("web"), changed("mail", |vm| vm.owner.uid = 1001)]);
    f.running("web");
    let stop = |vm, force| Request::Stop { vm, force, wait: false };
    let order = |order| Request::Order { vm: by_name("web"), order };
    let ours = Some("web");
    for (request, expected) in [
        (order(Order::Pause), told(ours, "pause vm \"web\" (vm 1)", None)),
        (order(Order::Nmi), told(ours, "send vm \"web\" (vm 1) an NMI", None)),
        (stop(VmRef::Id(1), true), told(ours, "stop vm \"web\" (vm 1) by force", None)),
        (
            Request::Start(Box::new(start_of(by_name("web")))),
            told(
                ours,
                "start vm \"web\" (vm 1)",
                Some("vm \"web\" is being stopped; start -w waits for that, then starts it"),
            ),
        ),
        (stop(by_name("ghost"), false), told(None, "stop vm \"ghost\"", Some("vm \"ghost\" not found"))),
        (stop(VmRef::Id(9), false), told(None, "stop vm 9", Some("vm 9 not found"))),
        (
            stop(by_name("mail"), false),
            told(
                Some("mail"),
                "stop vm \"mail\" (vm 2)",
                Some("vm \"mail\" belongs to \"ann\", and uid 1000 is neither that user nor in that group"),
            ),
        ),
        (
            Request::Reload,
            told(None, "reload the configuration", Some("only root may reload, and uid 1000 is not root")),
        ),
    ] {
        f.ask_as(ann(), request);
        assert_eq!(recorded(&mut f), expected);
    }
    for silent in [Request::List, Request::Wait { vm: by_name("web") }] {
        f.ask_as(ann(), silent);
        assert_eq!(f.recorded, [], "it changes nothing");
    }
}

/// How grave the line of a start that fails is.
fn weight(actions: &[Action]) -> Weight {
    let weight = actions.iter().find_map(|action| match action {
        Action::LogOf(_, _, weight, text) if text.starts_with("failed to start") => Some(*weight),
        _ => None,
    });
    weight.expect("a line")
}

#[test]
fn a_users_own_mistake_is_a_notice_and_what_the_host_lacks_an_error() {
    for (code, expected) in [
        (Code::NotFound, Weight::Notice),
        (Code::NotPermitted, Weight::Notice),
        (Code::NotExecutable, Weight::Notice),
        (Code::NoMemory, Level::Error.into()),
        (Code::Io, Level::Error.into()),
    ] {
        let failed = || Event::ConsoleMade(Run { vm: VmId(1), nth: 1 }, Err(Failure::new(code, "why")));
        let mut f = Fixture::new(vec![definition("web")]);
        f.start("web");
        assert_eq!(weight(&f.on(failed())), expected, "{code:?}");
        let mut f = Fixture::new(vec![enabled("web")]);
        assert_eq!(weight(&f.on(failed())), Level::Error.into(), "nobody asked: {code:?}");
    }
}

#[test]
fn the_log_of_a_vm_has_its_taps_and_addresses() {
    let vm = with_card(definition("web"), on("lan"));
    let vm = with_card(vm, Nic { local: true, ..Nic::default() });
    let mut f = Fixture::new(vec![]);
    let settings = Settings { switches: vec![switch("lan", "br0")], ..settings(vec![vm]) };
    let actions = f.on(Event::Configured(Box::new(settings)));
    f.prepare(actions);
    let actions = f.start("web");
    let lines: Vec<String> = f
        .prepare(actions)
        .into_iter()
        .filter_map(|action| match action {
            Action::LogOf(name, None, weight, text) if name.as_str() == "web" && weight == Level::Info.into() => {
                Some(text)
            }
            _ => None,
        })
        .collect();
    let expected = [
        "interface 0 of vm \"web\" is tap \"tap0\" on switch \"lan\", lladdr fe:e1:bb:d1:00:01",
        "interface 1 of vm \"web\" is tap \"tap1\", lladdr fe:e1:bb:d2:00:01, host 100.64.1.4, guest 100.64.1.5",
    ];
    assert_eq!(lines, expected);
}
