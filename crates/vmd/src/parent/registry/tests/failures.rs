//! Why VMs failed last, as `vmctl status NAME` is told.

use proto::client::PastFailure;

use super::super::failures::MAX_KEPT;
use super::*;

impl Fixture {
    /// What a user is told.
    fn last_failure_for(&mut self, who: Who, vm: VmRef) -> Option<PastFailure> {
        let (_, actions) = self.ask_as(who, Request::Detail { vm });
        match &replies(&actions)[..] {
            [Reply::Detail(detail)] => detail.failure.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn last_failure(&mut self, name: &str) -> Option<String> {
        self.last_failure_for(root(), by_name(name)).map(|failure| failure.reason.to_string())
    }

    /// One that can't be opened.
    fn fails(&mut self, name: &str, why: &str) {
        let actions = self.start(name);
        let run = actions.iter().find_map(|a| if let Action::Open { run, .. } = a { Some(*run) } else { None });
        self.on(Event::Opened(run.unwrap(), File::Disk(0), Err(Failure::new(Code::DiskMissing, why))));
    }
}

fn user(uid: u32) -> Who {
    Who { uid, gid: uid, groups: vec![] }
}

#[test]
fn a_start_that_fails_is_told_until_one_succeeds() {
    let mut f = Fixture::new(vec![definition("web"), definition("other")]);
    assert_eq!(f.last_failure("web"), None);
    f.fails("web", "disk \"/web.raw\": no such file");
    f.now += Duration::from_secs(90);
    let told = PastFailure { age: 90, reason: Text::cut("disk \"/web.raw\": no such file") };
    assert_eq!(f.last_failure_for(root(), VmRef::Id(1)), Some(told));
    assert_eq!(f.last_failure("other"), None);
    f.fails("web", "disk \"/web.raw\": is a directory");
    assert_eq!(f.last_failure("web").as_deref(), Some("disk \"/web.raw\": is a directory"), "the last one");
    f.now += Duration::from_secs(60);
    f.running("web");
    assert_eq!(f.last_failure("web"), None);
}

#[test]
fn a_vm_that_ends_by_a_failure_is_told_and_one_that_powers_off_is_not() {
    let mut f = Fixture::new(vec![definition("web"), definition("fine")]);
    let (web, fine) = (f.running("web"), f.running("fine"));
    f.on(Event::Ended(web, End::Failed(Failure::new(Code::Io, "vm/web/vioblk0 ended: killed by signal 9"))));
    f.on(Event::Ended(fine, End::PoweredOff));
    assert_eq!(f.last_failure("web").as_deref(), Some("vm/web/vioblk0 ended: killed by signal 9"));
    assert_eq!(f.last_failure("fine"), None);
}

#[test]
fn a_guest_that_resets_at_once_says_why_it_stays_off_and_what_to_try() {
    let mut f = Fixture::new(vec![definition("web")]);
    let id = f.running("web");
    for _ in 0..2 {
        let actions = f.on(Event::Ended(id, End::Rebooted));
        f.prepare(actions);
        f.on(Event::StartDone(id, Ok(7)));
    }
    let logged = f.on(Event::Ended(id, End::Rebooted)).into_iter().find_map(|action| match action {
        Action::LogOf(_, _, sys::log::Weight::Of(log::Level::Error), text) => Some(text),
        _ => None,
    });
    let why = "vm \"web\" restarted too quickly: its guest reset 3 times within 6 seconds each, and is not started again; see \
               what it prints with \"vmctl start -c web\": a kernel resets like this for lack of memory or of its root file \
               system";
    assert_eq!(f.last_failure("web").as_deref(), Some(why));
    assert_eq!(logged, Some(format!("failed to start vm \"web\": {why}")));
    let refused = f.start("web");
    let Some(Reply::Failed(refused)) = replies(&refused).pop() else { panic!("{refused:?}") };
    assert_eq!(
        refused.to_string(),
        "vm \"web\" restarted too quickly: 3 times within 6 seconds each; wait 6 seconds and start it"
    );
}

#[test]
fn a_vm_that_a_client_made_is_told_of_though_it_is_off_the_list() {
    let mut f = Fixture::new(vec![]);
    let mut start = start_of(by_name("new"));
    start.kernel = Some(UserPath::new("/k").unwrap());
    let actions = f.ask(Request::Start(Box::new(start)));
    let run = actions.iter().find_map(|a| if let Action::Probe(run, ..) = a { Some(*run) } else { None });
    f.on(Event::Probed(run.unwrap(), File::Kernel, Err(Failure::new(Code::NotExecutable, "is cut short"))));
    assert_eq!(f.state("new"), None);
    assert_eq!(f.last_failure("new").as_deref(), Some("kernel \"/k\": is cut short"));
}

#[test]
fn a_failure_is_told_to_who_may_use_the_vm_alone() {
    let mut f = Fixture::new(vec![definition("web")]);
    f.fails("web", "disk \"/web.raw\": permission denied");
    assert!(f.last_failure_for(user(1000), by_name("web")).is_some(), "its owner");
    for who in [user(2000), user(999)] {
        for vm in [by_name("web"), VmRef::Id(1), by_name("ghost")] {
            assert_eq!(f.last_failure_for(who.clone(), vm), None);
        }
    }
}

#[test]
fn of_too_many_failures_the_oldest_of_who_has_most_is_forgotten() {
    let named = |name: String, uid| changed(&name, |vm| vm.owner.uid = uid);
    let theirs = (0..MAX_KEPT).map(|number| named(format!("vm{number}"), 2000));
    let mut f = Fixture::new([named("roots".to_owned(), 0)].into_iter().chain(theirs).collect());
    f.fails("roots", "first");
    (0..MAX_KEPT).for_each(|number| f.fails(&format!("vm{number}"), "more"));
    let last = format!("vm{}", MAX_KEPT - 1);
    let told = ["roots", "vm0", "vm1", &last].map(|name| f.last_failure(name).is_some());
    assert_eq!(told, [true, false, true, true]);
}
