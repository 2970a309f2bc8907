//! Pause and unpause (openbsd/daemon.md, 2.3, 2.5, 2.8; 11.3 rows 5, 6 and 26).

use super::super::running::orders::{ANSWER_LIMIT, MAX_WAITING};
use super::*;

impl Machine {
    fn pause(&mut self, request: u32, id: u32) -> Vec<Action> {
        self.parent(ToVmm::Order { request: RequestId(request), vm: VmId(id), order: Order::Pause })
    }

    fn unpause(&mut self, request: u32, id: u32) -> Vec<Action> {
        self.parent(ToVmm::Order { request: RequestId(request), vm: VmId(id), order: Order::Unpause })
    }

    fn paused(&mut self, id: u32, name: &str) -> Run {
        let run = self.up(id, name, 1);
        self.pause(1, id);
        assert_eq!(results(&self.vm(run, FromVm::Done(Order::Pause, Ok(true)))), [(1, true, Ok(()))]);
        run
    }
}

/// Request, whether it was a pause, and how it went, of each answer.
fn results(actions: &[Action]) -> Vec<(u32, bool, Result<(), Code>)> {
    let result = |answer| match answer {
        ToParent::OrderDone { request, order, result, .. } => {
            let pause = order == Order::Pause;
            let how = result.map(|paused| assert_eq!(paused, pause)).map_err(|failure| failure.code);
            Some((request.0, pause, how))
        }
        _ => None,
    };
    answers(actions).into_iter().filter_map(result).collect()
}

#[test]
fn row_2_3_pause_and_unpause_of_an_unknown_vm_are_enoent() {
    let mut vmm = machine();
    assert_eq!(results(&vmm.pause(1, 8)), [(1, true, Err(Code::NotFound))]);
    assert_eq!(results(&vmm.unpause(2, 8)), [(2, false, Err(Code::NotFound))]);
}

#[test]
fn row_2_3_pause_is_passed_on_and_answered_when_the_vm_answers() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    let asked = vmm.pause(7, 1);
    assert_eq!((said_to_vm(&asked), results(&asked)), (vec![ToVm::Order(Order::Pause)], vec![]), "no reply now");
    assert_eq!(results(&vmm.vm(run, FromVm::Done(Order::Pause, Ok(true)))), [(7, true, Ok(()))]);
    assert_eq!(said_to_vm(&vmm.unpause(8, 1)), [ToVm::Order(Order::Unpause)]);
    assert_eq!(results(&vmm.vm(run, FromVm::Done(Order::Unpause, Ok(false)))), [(8, false, Ok(()))]);
}

#[test]
fn row_2_8_what_a_vm_says_of_its_pause_is_the_answer_without_control_characters() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.pause(7, 1);
    let failure = Failure::new(Code::TimedOut, "a vCPU\u{1b}[2J hangs");
    match answers(&vmm.vm(run, FromVm::Done(Order::Pause, Err(failure)))).as_slice() {
        [ToParent::OrderDone { order: Order::Pause, result: Err(failure), .. }] => {
            assert_eq!(failure.code, Code::TimedOut);
            assert!(!failure.text.chars().any(char::is_control), "{failure}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn row_11_3_6_a_vm_whose_guest_does_not_run_is_not_paused() {
    let mut vmm = machine();
    vmm.spawn(start_of(1, "web", 1));
    assert_eq!(results(&vmm.pause(1, 1)), [(1, true, Err(Code::Invalid))]);
    vmm.up(2, "stopping", 0);
    vmm.stop(2, GRACEFUL);
    assert_eq!(results(&vmm.pause(2, 2)), [(2, true, Err(Code::Invalid))]);
}

#[test]
fn row_11_3_26_an_answer_is_of_the_vm_that_it_comes_from() {
    let mut vmm = machine();
    let web = vmm.up(1, "web", 0);
    let other = vmm.up(2, "other", 0);
    vmm.pause(7, 1);
    assert_eq!(
        kills(&vmm.vm(other, FromVm::Done(Order::Pause, Ok(true)))),
        [(Member::Vm, Signal::KILL)],
        "it was not asked"
    );
    assert_eq!(results(&vmm.vm(web, FromVm::Done(Order::Pause, Ok(true)))), [(7, true, Ok(()))]);
}

#[test]
fn one_wish_at_a_time_and_each_is_answered_to_who_asked() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.unpause(2, 1);
    assert_eq!(said_to_vm(&vmm.pause(3, 1)), []);
    let next = vmm.vm(run, FromVm::Done(Order::Unpause, Ok(false)));
    assert_eq!((results(&next), said_to_vm(&next)), (vec![(2, false, Ok(()))], vec![ToVm::Order(Order::Pause)]));
    assert_eq!(results(&vmm.vm(run, FromVm::Done(Order::Pause, Ok(true)))), [(3, true, Ok(()))]);
}

#[test]
fn a_pause_waits_as_long_as_the_disk_does() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.pause(1, 1);
    assert_eq!(vmm.vm(run, FromVm::Pausing), []);
    assert_eq!(vmm.pass(ANSWER_LIMIT * 1000), []);
    assert_eq!(results(&vmm.vm(run, FromVm::Done(Order::Pause, Ok(true)))), [(1, true, Ok(()))]);
}

#[test]
fn an_unpause_takes_a_pause_back_that_is_under_way_and_those_that_wait() {
    let unpaused = || Failure::new(Code::Invalid, "the guest was unpaused");
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.pause(1, 1);
    vmm.pause(2, 1);
    let back = vmm.unpause(3, 1);
    assert_eq!(
        (results(&back), said_to_vm(&back)),
        (vec![(2, true, Err(Code::Invalid))], vec![ToVm::Order(Order::Unpause)])
    );
    assert_eq!(said_to_vm(&vmm.pause(4, 1)), [], "the next waits for both answers");
    let first = vmm.vm(run, FromVm::Done(Order::Pause, Err(unpaused())));
    assert_eq!((results(&first), said_to_vm(&first)), (vec![(1, true, Err(Code::Invalid))], vec![]));
    let second = vmm.vm(run, FromVm::Done(Order::Unpause, Ok(false)));
    assert_eq!((results(&second), said_to_vm(&second)), (vec![(3, false, Ok(()))], vec![ToVm::Order(Order::Pause)]));
    // The pause may have been done when the unpause came.
    vmm.unpause(5, 1);
    assert_eq!(results(&vmm.vm(run, FromVm::Done(Order::Pause, Ok(true)))), [(4, true, Ok(()))]);
    assert_eq!(results(&vmm.vm(run, FromVm::Done(Order::Unpause, Ok(false)))), [(5, false, Ok(()))]);
    assert_eq!(vmm.told(), [1], "it lives");
}

#[test]
fn wishes_that_wait_are_bounded() {
    let mut vmm = machine();
    vmm.up(1, "web", 0);
    let most = u32::try_from(MAX_WAITING).expect("few");
    for request in 0..=most {
        assert_eq!(results(&vmm.pause(request, 1)), []);
    }
    assert_eq!(results(&vmm.pause(99, 1)), [(99, true, Err(Code::Busy))]);
    // Who wants it to run is not held up by them.
    let back = vmm.unpause(100, 1);
    assert_eq!((said_to_vm(&back), results(&back).len()), (vec![ToVm::Order(Order::Unpause)], MAX_WAITING));
}

#[test]
fn a_vm_that_does_not_answer_is_given_up_with_all_that_waits_and_may_answer_later() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.pause(1, 1);
    vmm.unpause(2, 1); // which would take the pause back
    let late = vmm.pass(ANSWER_LIMIT);
    assert_eq!(results(&late), [(1, true, Err(Code::TimedOut)), (2, false, Err(Code::TimedOut))]);
    assert_eq!(results(&vmm.pause(3, 1)), [(3, true, Err(Code::Busy))], "it still owes an answer");
    assert_eq!(vmm.vm(run, FromVm::Done(Order::Pause, Ok(true))), [], "nobody waits for it");
    assert_eq!(vmm.vm(run, FromVm::Done(Order::Unpause, Ok(false))), []);
    assert_eq!(said_to_vm(&vmm.unpause(4, 1)), [ToVm::Order(Order::Unpause)]);
    assert_eq!(results(&vmm.vm(run, FromVm::Done(Order::Unpause, Ok(false)))), [(4, false, Ok(()))]);
    assert_eq!(vmm.told(), [1], "it lives");
}

#[test]
fn the_end_of_a_vm_answers_all_wishes() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.pause(1, 1);
    vmm.unpause(2, 1);
    let failed = results(&vmm.exit(run, Member::Vm, Exit::Code(0)));
    assert_eq!(failed, [(1, true, Err(Code::Io)), (2, false, Err(Code::Io))]);
}

#[test]
fn a_graceful_stop_wakes_a_paused_guest_so_that_it_can_stop() {
    let mut vmm = machine();
    let run = vmm.paused(1, "web");
    assert_eq!(said_to_vm(&vmm.stop(1, GRACEFUL)), [ToVm::Order(Order::Unpause), ToVm::AskToStop]);
    assert_eq!(vmm.vm(run, FromVm::Done(Order::Unpause, Ok(false))), []);
}

#[test]
fn a_graceful_stop_during_a_pause_takes_the_pause_back() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 0);
    vmm.pause(1, 1);
    vmm.pause(2, 1);
    let stop = vmm.stop(1, GRACEFUL);
    let said = vec![ToVm::Order(Order::Unpause), ToVm::AskToStop];
    assert_eq!((said_to_vm(&stop), results(&stop)), (said, vec![(2, true, Err(Code::Invalid))]));
    let paused = vmm.vm(run, FromVm::Done(Order::Pause, Ok(true)));
    assert_eq!((said_to_vm(&paused), results(&paused)), (vec![], vec![(1, true, Ok(()))]));
    assert_eq!(vmm.vm(run, FromVm::Done(Order::Unpause, Ok(false))), []);
}

#[test]
fn a_paused_vm_is_stopped_by_force() {
    let mut vmm = machine();
    let run = vmm.paused(1, "web");
    assert_eq!(kills(&vmm.stop(1, Stop::Force)), [(Member::Vm, Signal::TERM)]);
    assert_eq!(said_to_vm(&vmm.vm(run, FromVm::Leaving { reboot: false })), []);
}
