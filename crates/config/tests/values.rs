//! Values where they begin and cease to be ones, and what they tell of themselves.

use config::closest;
use config::prefix::{Prefix4, Prefix6, PrefixError};
use config::request::{Refusal, VmRequest};
use model::{Disk, MacAddr, MemorySize, Nic, Right, Sev, UserPath, Vm, VmName};

#[test]
fn an_address_has_the_octets_that_it_is_written_with() {
    let address = MacAddr::parse(b"fe:e1:bb:d1:2:3").expect("an address");
    assert_eq!(address.0, [0xfe, 0xe1, 0xbb, 0xd1, 2, 3]);
}

#[test]
fn prefixes_tell_their_address_and_length() {
    let four = Prefix4::parse(b"172.16.0.0/12").expect("a network");
    assert_eq!((four.address().to_string(), four.length()), ("172.16.0.0".to_owned(), 12));
    let six = Prefix6::parse(b"fd00:1::/48").expect("a network");
    assert_eq!((six.address().to_string(), six.length()), ("fd00:1::".to_owned(), 48));
}

#[test]
fn a_length_may_be_minus_zero_where_it_may_be_zero() {
    assert_eq!(Prefix6::parse(b"::/-0").map(|prefix| prefix.length()), Ok(0));
    assert_eq!(Prefix6::parse(b"::/-1"), Err(PrefixError::TooSmall));
}

#[test]
fn octets_are_digits_alone() {
    assert_eq!(Prefix4::parse(b"+10.0.0.0/8"), Err(PrefixError::Format));
}

#[test]
fn a_right_that_is_missing_is_named_in_the_words_of_the_original() {
    for (right, thing) in [
        (Right::Boot, "boot image"),
        (Right::Cdrom, "cdrom"),
        (Right::Cpus, "cpus"),
        (Right::Disk, "disks"),
        (Right::Instance, "instance"),
        (Right::Interface, "interfaces"),
        (Right::Memory, "memory"),
    ] {
        assert_eq!(Refusal::MayNotSet(right).to_string(), format!("no permission to set {thing}"));
    }
}

#[test]
fn words_of_1_to_32_letters_are_compared() {
    let letters = |count: usize| "x".repeat(count);
    assert_eq!(closest("", ["x"]), None);
    assert_eq!(closest(&letters(32), [letters(31).as_str()]), Some(letters(31).as_str()));
    assert_eq!(closest(&letters(33), [letters(32).as_str()]), None);
}

#[test]
fn a_third_of_the_letters_may_be_wrong() {
    assert_eq!(closest("mimary", ["memory"]), Some("memory"));
    assert_eq!(closest("dosks", ["disku", "tasks"]), None, "two of five");
}

#[test]
fn letters_are_swapped_when_both_are_in_the_others_place() {
    assert_eq!(closest("ab", ["ba"]), Some("ba"));
    assert_eq!((closest("ab", ["ca"]), closest("xb", ["bc"])), (None, None));
}

#[test]
fn each_thing_that_makes_a_machine_is_a_device_and_nothing_else() {
    let request = || VmRequest::new(VmName::new(b"web").expect("a name"));
    let saying = |say: fn(&mut Vm)| {
        let mut request = request();
        say(&mut request.vm);
        request
    };
    for (what, request) in [
        ("boot", saying(|vm| vm.boot = UserPath::new("/k").ok())),
        ("cdrom", saying(|vm| vm.cdrom = UserPath::new("/c").ok())),
        ("disk", saying(|vm| vm.disks = vec![Disk::new(UserPath::new("/d").expect("a path"), None)])),
        ("interface", saying(|vm| vm.nics = vec![Nic::default()])),
        ("interfaces", VmRequest { least_nics: 1, ..request() }),
        ("memory", VmRequest { memory: Some(MemorySize::DEFAULT), ..request() }),
        ("cpus", VmRequest { cpus: Some(1), ..request() }),
    ] {
        assert!(request.has_devices(), "{what}");
    }
    assert!(!saying(|vm| (vm.initrd, vm.sev) = (UserPath::new("/i").ok(), Some(Sev::State))).has_devices());
}
