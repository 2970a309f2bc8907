//! The table of openbsd/daemon.md, 7, its order, and ranges; compared with a plain sorted list of all names.

use std::collections::BTreeMap;

use model::VmName;
use proptest::prelude::*;
use proto::VmId;

use super::*;

fn row(id: u32, state: VmState) -> Row {
    let name = VmName::new(format!("vm{id}")).unwrap();
    let used = (state == VmState::Running).then_some(150 << 20);
    Row { vm: VmId(id), name, state, disabled: id.is_multiple_of(2), cpus: 2, memory: model::MemorySize::DEFAULT, used }
}

fn mib(rows: Vec<Row>) -> Mib {
    let mut mib = Mib::new("vmd for Linux 1.2", "6.1.0");
    mib.set(rows);
    mib
}

fn below(rest: &[u32]) -> Oid {
    [&VM_MIB, rest].concat()
}

fn cell(mib: &Mib, column: u32, id: u32) -> Value {
    mib.get(&below(&[1, 4, 1, column, id]))
}

#[test]
fn scalars_and_columns_are_the_tables_of_the_specification() {
    let mib = mib(vec![row(1, VmState::Running), row(4, VmState::Stopped)]);
    assert_eq!(mib.get(&below(&[1, 1, 1, 0])), text("vmd for Linux 1.2"));
    assert_eq!(mib.get(&below(&[1, 1, 2, 0])), text("6.1.0"));
    assert_eq!(mib.get(&below(&[1, 1, 3, 0])), Value::Oid(vec![0, 0]));
    assert_eq!(mib.get(&below(&[1, 2, 0])), Value::Integer(2));
    let integer = Value::Integer;
    for (column, running, stopped) in [
        (2, text("vm1"), text("vm4")),
        (3, text(""), text("")),
        (4, text(""), text("")),
        (5, integer(1), integer(4)),
        (6, integer(4), integer(11)),
        (7, integer(2), integer(3)),
        (8, integer(1), integer(1)),
        (9, integer(2), integer(2)),
        (10, integer(2), integer(2)),
        (11, integer(2), integer(2)),
        (12, integer(1_048_576), integer(1_048_576)),
        (13, integer(150), integer(0)),
        (14, integer(-1), integer(-1)),
        (15, integer(512), integer(512)),
    ] {
        assert_eq!((cell(&mib, column, 1), cell(&mib, column, 4)), (running, stopped), "column {column}");
    }
}

#[test]
fn paused_wins_over_running_and_who_is_to_end_still_runs() {
    let states = |state| {
        let mib = mib(vec![row(1, state)]);
        (cell(&mib, 5, 1), cell(&mib, 6, 1))
    };
    let pair = |admin, oper| (Value::Integer(admin), Value::Integer(oper));
    assert_eq!(states(VmState::Paused), pair(3, 8));
    assert_eq!(states(VmState::Stopping), pair(1, 4));
    for state in [VmState::Waiting, VmState::Starting, VmState::Stopped] {
        assert_eq!(states(state), pair(4, 11), "{state:?}");
    }
}

#[test]
fn what_is_not_there_is_told_apart_from_what_is_of_no_kind_here() {
    let mib = mib(vec![row(1, VmState::Stopped)]);
    for missing in [&[1, 1, 1][..], &[1, 1, 1, 1], &[1, 2, 0, 0], &[1, 4, 1, 2], &[1, 4, 1, 2, 2], &[1, 4, 1, 2, 1, 0]]
    {
        assert_eq!(mib.get(&below(missing)), Value::NoSuchInstance, "{missing:?}");
    }
    for other in [&[][..], &[1], &[1, 1, 4, 0], &[1, 3, 0], &[1, 4, 1, 1, 1], &[1, 4, 1, 16, 1], &[2]] {
        assert_eq!(mib.get(&below(other)), Value::NoSuchObject, "{other:?}: vmIndex is not accessible");
    }
    assert_eq!(mib.get(&[]), Value::NoSuchObject);
}

#[test]
fn number_0_is_dropped_and_a_number_stands_once() {
    let mib = mib(vec![row(3, VmState::Stopped), row(0, VmState::Running), row(3, VmState::Running)]);
    assert_eq!(mib.get(&below(&[1, 2, 0])), Value::Integer(1));
    assert_eq!(cell(&mib, 2, 0), Value::NoSuchInstance);
}

#[test]
fn what_does_not_fit_a_number_is_the_largest() {
    let large = Row { memory: model::MemorySize::MAX, used: Some(u64::MAX), ..row(1, VmState::Running) };
    assert_eq!(cell(&mib(vec![large]), 13, 1), Value::Integer(i32::MAX));
}

/// From name to name, as snmpwalk goes.
fn walk(mib: &Mib) -> Vec<Binding> {
    let mut range = Range { start: VM_MIB.to_vec(), include: true, end: vec![] };
    let mut all = Vec::new();
    loop {
        let (name, value) = mib.next(&range);
        if value == Value::EndOfMibView {
            assert_eq!(name, range.start, "the name that was asked for");
            return all;
        }
        range = Range { start: name.clone(), include: false, end: vec![] };
        all.push((name, value));
    }
}

#[test]
fn a_walk_sees_every_value_once_in_order_with_no_vm_and_with_ten_thousand() {
    assert_eq!(walk(&mib(vec![])).len(), 4);
    let many = mib((1..=10_000).rev().map(|id| row(id, VmState::Stopped)).collect());
    let all = walk(&many);
    assert_eq!(all.len(), 4 + 14 * 10_000);
    assert!(all.is_sorted_by(|one, next| one.0 < next.0));
    assert!(all.iter().all(|(name, value)| many.get(name) == *value));
}

fn subid() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..6, 234u32..238, any::<u32>()]
}

fn name() -> impl Strategy<Value = Oid> {
    let near = proptest::collection::vec(subid(), 0..6).prop_map(|rest| below(&rest));
    let cell = (1u32..17, 0u32..12).prop_map(|(column, id)| below(&[1, 4, 1, column, id]));
    prop_oneof![near, cell, proptest::collection::vec(subid(), 0..12)]
}

proptest! {
    #[test]
    fn a_range_gives_the_first_name_that_a_sorted_list_gives(
        ids in proptest::collection::btree_set(1u32..12, 0..8), start in name(), include in any::<bool>(), end in name(), bounded in any::<bool>()
    ) {
        let mib = mib(ids.into_iter().map(|id| row(id, VmState::Running)).collect());
        let all: BTreeMap<Oid, Value> = walk(&mib).into_iter().collect();
        let end = if bounded { end } else { vec![] };
        let inside = |name: &Oid| (*name > start || include && *name == start) && (end.is_empty() || *name < end);
        let expected = all.iter().find(|(name, _)| inside(name)).map(|(name, value)| (name.clone(), value.clone()));
        let got = mib.next(&Range { start: start.clone(), include, end: end.clone() });
        prop_assert_eq!(got, expected.unwrap_or((start.clone(), Value::EndOfMibView)));
        let known = all.get(&start).cloned();
        let got = mib.get(&start);
        prop_assert!(known.as_ref().map_or(matches!(got, Value::NoSuchObject | Value::NoSuchInstance), |value| *value == got));
    }
}
