//! Every chip saved and restored: the machine that goes on is like the one that was saved, whatever happens to both; and
//! nothing that comes as saved state does any harm.

use std::collections::BTreeMap;

use hw::saved::{Flaw, Saved};
use hw::{Activation, Delivery, DeviceEffect, Effect, RestoreError, SavedChipset, Slot, Timer, World};
use proptest::prelude::*;

use crate::acts::{Act, act, perform};
use crate::driver::{BAR, Machine, NET, common, setup};

/// What the world outside knows of a machine by its effects: all that a fresh one has to be told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    lines: BTreeMap<u32, ()>,
    deadlines: Vec<(Timer, u64)>,
    notify: BTreeMap<Slot, u64>,
    deliveries: BTreeMap<(Slot, u16), Delivery>,
    back_ends: BTreeMap<Slot, BackEnd>,
    output: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum BackEnd {
    Serves(Activation),
    Stops,
}

impl Known {
    fn see(&mut self, act: &Act) {
        match act {
            Act::Timer(timer) => self.deadlines.retain(|(of, _)| of != timer),
            Act::ResetDone(slot) if self.back_ends.get(&Slot(*slot)) == Some(&BackEnd::Stops) => {
                self.back_ends.remove(&Slot(*slot));
            }
            // A back end that failed is not started again; one that stops goes on stopping.
            Act::NeedsReset(slot) if matches!(self.back_ends.get(&Slot(*slot)), Some(BackEnd::Serves(_))) => {
                self.back_ends.remove(&Slot(*slot));
            }
            _ => {}
        }
    }

    fn hear(&mut self, effect: Effect) {
        match effect {
            Effect::Irq { gsi, level: true } => drop(self.lines.insert(gsi, ())),
            Effect::Irq { gsi, level: false } => drop(self.lines.remove(&gsi)),
            Effect::Deadline { timer, at } => {
                self.deadlines.retain(|(of, _)| *of != timer);
                self.deadlines.extend(at.map(|at| (timer, at)));
                self.deadlines.sort_by_key(|(timer, _)| timer.to_string());
            }
            Effect::Device(slot, DeviceEffect::NotifyBase(Some(base))) => drop(self.notify.insert(slot, base)),
            Effect::Device(slot, DeviceEffect::NotifyBase(None)) => drop(self.notify.remove(&slot)),
            Effect::Device(slot, DeviceEffect::Delivery(queue, Delivery::Intx)) => {
                self.deliveries.remove(&(slot, queue));
            }
            Effect::Device(slot, DeviceEffect::Delivery(queue, delivery)) => {
                self.deliveries.insert((slot, queue), delivery);
            }
            Effect::Device(slot, DeviceEffect::Activate(activation)) => {
                self.back_ends.insert(slot, BackEnd::Serves(activation));
            }
            Effect::Device(slot, DeviceEffect::Reset) => drop(self.back_ends.insert(slot, BackEnd::Stops)),
            Effect::SerialOutput => self.output = true,
            Effect::Reset
            | Effect::PowerOff
            | Effect::Overdue
            | Effect::SerialRoom
            | Effect::Device(_, DeviceEffect::Notify(_) | DeviceEffect::Signal(_))
            | Effect::WriteMemory { .. } => {}
        }
    }

    /// With the times that are left to the deadlines, on a host whose clock says this and could go on for so long.
    fn with_time_left(mut self, now: u64, most: u64) -> Self {
        self.deadlines.iter_mut().for_each(|(_, at)| *at = at.saturating_sub(now).min(most));
        self
    }
}

/// Deadlines of a host whose clock is ahead, as they would be on the first.
fn as_before(effects: Vec<Effect>, ahead_ns: u64) -> Vec<Effect> {
    let shift = |effect| match effect {
        Effect::Deadline { timer, at: Some(at) } => Effect::Deadline { timer, at: Some(at.wrapping_sub(ahead_ns)) },
        other => other,
    };
    effects.into_iter().map(shift).collect()
}

fn output(machine: &Machine) -> Vec<u8> {
    let mut buffer = vec![0; hw::uart::MAX_OUTPUT];
    let len = machine.chipset.serial_output(&mut buffer);
    buffer.truncate(len);
    buffer
}

/// As the bytes that another process gets.
fn through_bytes(saved: &SavedChipset) -> SavedChipset {
    postcard::from_bytes(&postcard::to_stdvec(saved).unwrap()).unwrap()
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_restored_machine_answers_as_the_saved_one(
        driver in 0_u8..4, before in acts(), after in acts(), ahead_ns in prop_oneof![Just(0_u64), any::<u64>()]
    ) {
        let first = Machine::new();
        let mut known = Known::default();
        drive(&first, driver);
        first.edge.take().into_iter().for_each(|effect| known.hear(effect));
        for act in &before {
            known.see(act);
            perform(&first, act);
            first.edge.take().into_iter().for_each(|effect| known.hear(effect));
        }
        let saved = first.chipset.save(&first.edge);
        let second = Machine::restored(&through_bytes(&saved), &first.edge, ahead_ns).unwrap();

        let mut told = Known::default();
        second.edge.take().into_iter().for_each(|effect| told.hear(effect));
        let now = |machine: &Machine| machine.edge.now().monotonic_ns;
        let most = u64::MAX - now(&second);
        let told = told.with_time_left(now(&second), most);
        prop_assert_eq!(told, known.with_time_left(now(&first), most), "what the world is told");
        prop_assert_eq!(second.chipset.save(&second.edge), saved, "saved again at once");
        for act in &after {
            prop_assert_eq!(perform(&first, act), perform(&second, act), "{:?}", act);
            prop_assert_eq!(first.edge.take(), as_before(second.edge.take(), ahead_ns), "{:?}", act);
        }
        prop_assert_eq!(first.chipset.save(&first.edge), second.chipset.save(&second.edge));
        prop_assert_eq!(output(&first), output(&second));
    }

    #[test]
    fn a_changed_state_is_refused_or_gives_a_machine_that_behaves(
        driver in 0_u8..4,
        before in acts(),
        changes in prop::collection::vec((0_usize..12, any::<prop::sample::Index>(), any::<u8>()), 1..4),
        after in acts(),
    ) {
        let first = Machine::new();
        drive(&first, driver);
        for act in &before {
            perform(&first, act);
        }
        let mut saved = first.chipset.save(&first.edge);
        for (chip, index, value) in changes {
            let bytes = &mut saved.chips[chip].state.bytes;
            if !bytes.is_empty() {
                *index.get_mut(bytes) = value;
            }
        }
        if let Ok(machine) = Machine::restored(&saved, &first.edge, 0) {
            machine.edge.take().iter().for_each(check);
            for act in &after {
                perform(&machine, act);
                let effects = machine.edge.take();
                prop_assert!(effects.len() <= 16, "{} effects of one access", effects.len());
                effects.iter().for_each(check);
            }
            let again = machine.chipset.save(&machine.edge);
            prop_assert!(Machine::restored(&again, &machine.edge, 0).is_ok(), "what it saves is a state");
        }
    }

    #[test]
    fn any_bytes_are_refused_or_taken(chip in 0_usize..12, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let first = Machine::new();
        let mut saved = first.chipset.save(&first.edge);
        saved.chips[chip].state.bytes = bytes;
        if let Ok(machine) = Machine::restored(&saved, &first.edge, 0) {
            prop_assert!(machine.edge.take().len() <= 16);
        }
    }
}

/// How far a driver got with the network card, so that much of the state is not that after a reset.
fn drive(machine: &Machine, how: u8) {
    if how > 0 {
        machine.start(NET);
        machine.start_vmmci(7);
    }
    if how > 1 {
        machine.enable_msix(NET);
        machine.open_vector(0, 0x41);
        machine.write(BAR + common::QUEUE_VECTOR, 2, 0);
    }
    if how > 2 {
        machine.set_status(0);
    }
}

/// A back end gets rings that lie in RAM, whatever was restored.
fn check(effect: &Effect) {
    if let Effect::Device(_, DeviceEffect::Activate(activation)) = effect {
        assert_ne!(activation.features & 1 << 32, 0);
        for queue in &activation.queues {
            let (ram, size) = (setup(hw::Now { monotonic_ns: 0, realtime_ns: 0 }).ram, u64::from(queue.size));
            let inside = |at: u64, len: u64| ram.iter().any(|piece| piece.start <= at && at + len <= piece.end);
            assert!(queue.size.is_power_of_two() && queue.size <= 256);
            assert!(
                inside(queue.desc, size * 16) && inside(queue.avail, size * 2 + 6) && inside(queue.used, size * 8 + 6)
            );
        }
    }
}

#[test]
fn a_state_of_another_machine_or_program_is_refused_by_name() {
    let machine = Machine::new();
    let saved = machine.chipset.save(&machine.edge);
    let names: Vec<&str> = saved.chips.iter().map(|chip| chip.name.as_str()).collect();
    let expected = "uart rtc pm i8042 port92 reset-control pci-address host-bridge virtio-1 virtio-2 virtio-3 vmmci";
    assert_eq!(names.join(" "), expected);
    let refused = |change: &dyn Fn(&mut SavedChipset)| {
        let mut saved = saved.clone();
        change(&mut saved);
        Machine::restored(&saved, &machine.edge, 0).err().expect("refused").to_string()
    };
    assert_eq!(refused(&|saved| saved.version = 2), "saved state: version 2 is not known, only 1");
    assert_eq!(refused(&|saved| drop(saved.chips.pop())), "saved state: it has 11 chips, this machine 12");
    assert_eq!(refused(&|saved| saved.chips.swap(1, 2)), "saved state: another chip is in the place of rtc");
    assert_eq!(
        refused(&|saved| saved.chips[3].state.version = 9),
        "saved state of i8042: version 9 is not known, only 1"
    );
    assert_eq!(
        refused(&|saved| saved.chips[9].state.bytes.truncate(300)),
        "saved state of virtio-2: it does not have the form of version 1"
    );
    // The card's state in the disk's place: another identity.
    let impossible = "has a value that is not possible in this machine";
    assert_eq!(
        refused(&|saved| saved.chips[10].state = saved.chips[9].state.clone()),
        format!("saved state of virtio-3: the configuration space {impossible}")
    );
}

#[test]
fn each_chip_refuses_the_state_of_another_version() {
    let machine = Machine::new();
    let saved = machine.chipset.save(&machine.edge);
    for (index, chip) in saved.chips.iter().enumerate() {
        let mut saved = saved.clone();
        saved.chips[index].state.version = 9;
        let flaw = Flaw::Version { found: 9, known: chip.state.version };
        let error = Machine::restored(&saved, &machine.edge, 0).err();
        assert_eq!(error, Some(RestoreError::Chip { chip: chip.name.clone(), flaw }));
    }
}

#[test]
fn a_machine_in_use_comes_back_as_it_was() {
    let machine = Machine::new();
    machine.start(NET);
    machine.chipset.queue_interrupt(NET, 0, &machine.edge);
    assert_eq!(machine.read(machine.config(NET, 0x06), 2), 0x18, "an interrupt waits");
    let saved = machine.chipset.save(&machine.edge);
    let second = Machine::restored(&saved, &machine.edge, 0).unwrap();
    assert_eq!(second.chipset.save(&second.edge), saved);
    assert_eq!(second.read(second.config(NET, 0x06), 2), 0x18);
}

#[test]
fn the_clocks_of_a_restored_machine_go_on_from_where_they_were() {
    let first = Machine::new();
    first.edge.now_ns.set(2_000_000_000);
    let saved = first.chipset.save(&first.edge);
    for ahead_ns in [0, 5_000_000_000, u64::MAX - 1_000_000_000] {
        let second = Machine::restored(&saved, &first.edge, ahead_ns).unwrap();
        assert_eq!(second.pio_read(0x608, 4), 2 * 3_579_545, "{ahead_ns} ns ahead");
        second.edge.now_ns.set(3_000_000_000);
        assert_eq!(second.pio_read(0x608, 4), 3 * 3_579_545, "{ahead_ns} ns ahead");
    }
}

/// Length and a checksum of each chip's state. Where one differs, a saved state means something else than it did: the
/// chip's version must change with it.
#[test]
fn the_form_of_each_version_stays() {
    let machine = Machine::new();
    drive(&machine, 2);
    machine.pio_write(0x3F8, 1, u64::from(b'!'));
    let saved = machine.chipset.save(&machine.edge);
    let forms: Vec<String> = saved.chips.into_iter().map(|chip| form(&chip.name, &chip.state)).collect();
    let expected = [
        "uart 2: 14 3232759840",
        "rtc 1: 139 169799719",
        "pm 1: 5 1024",
        "i8042 1: 1 0",
        "port92 1: 1 0",
        "reset-control 1: 1 0",
        "pci-address 1: 1 0",
        "host-bridge 1: 0 0",
        "virtio-1 1: 302 2549313372",
        "virtio-2 1: 335 3532511111",
        "virtio-3 1: 310 2011745024",
        "vmmci 2: 279 3142434410",
    ];
    assert_eq!(forms, expected);
}

fn form(name: &str, Saved { version, bytes }: &Saved) -> String {
    let sum = bytes.iter().fold(0, |sum: u32, byte| sum.rotate_left(5) ^ u32::from(*byte));
    format!("{name} {version}: {} {sum}", bytes.len())
}

#[test]
fn each_chip_names_the_field_that_it_does_not_take() {
    let machine = Machine::new();
    let saved = machine.chipset.save(&machine.edge);
    let cases: [(usize, usize, u8, Flaw); 4] = [
        (4, 0, 1, Flaw::Field("the register")),
        (5, 0, 1, Flaw::Field("the register")),
        (2, 0, 2, Flaw::Field("the status register")),
        (9, 2, 0, Flaw::Field("the configuration space")),
    ];
    for (chip, at, value, flaw) in cases {
        let mut saved = saved.clone();
        saved.chips[chip].state.bytes[at] = value;
        let error = Machine::restored(&saved, &machine.edge, 0).err();
        assert_eq!(error, Some(RestoreError::Chip { chip: saved.chips[chip].name.clone(), flaw }));
    }
}
