//! Section 9: `switch`.

use model::Switch;

use crate::{config, refused, told};

fn switch(options: &str) -> Switch {
    config(&format!("switch \"s\" {{\n\tinterface br0\n\t{options}\n}}\n")).switches[0].clone()
}

#[test]
fn a_switch_that_says_only_its_interface_is_enabled_up_and_nothing_else() {
    let switch = switch("up");
    assert_eq!((switch.enabled, switch.up, switch.locked_lladdr), (true, true, false));
    assert_eq!((switch.guarded, switch.isolated, switch.external), (false, false, false));
    assert_eq!((switch.group, switch.rdomain, switch.interface.as_str()), (None, None, "br0"));
}

#[test]
fn each_option_of_a_switch_says_what_it_says_and_the_last_counts() {
    assert!(!switch("enable\n\tdisable").enabled);
    assert!(!switch("up\n\tdown").up);
    assert!(switch("locked lladdr").locked_lladdr);
    let both = |options: &str| (switch(options).guarded, switch(options).isolated);
    assert_eq!((both("guarded"), both("isolated")), ((true, false), (false, true)));
    assert_eq!(both("isolated\n\tguarded\n\tup"), (true, true));
    assert!(switch("external").external);
    assert_eq!(switch("group a\n\tgroup b").group.expect("one").name.as_str(), "b");
    assert_eq!(switch("group \"\"").group, None);
    assert_eq!(switch("rdomain 0\n\trdomain 255").rdomain, Some(255));
    assert_eq!(switch("interface veb7").interface.as_str(), "veb7");
}

#[test]
fn a_switch_needs_an_interface_also_when_it_is_disabled() {
    refused("switch \"s\" {\n\tdisable\n}\n", "3: switch \"s\" is missing interface name");
}

/// The original wants bridge or veb and a number.
#[test]
fn the_interface_is_any_that_linux_can_have() {
    for name in ["br0", "lan", "bridge0", "veb3", "exactly15bytes_", "br-lan.7"] {
        assert_eq!(switch(&format!("interface \"{name}\"")).interface.as_str(), name);
    }
    let interface = |name: &str, said: &str| {
        refused(&format!("switch \"s\" {{ interface \"{name}\" }}\n"), &format!("1: {said}: {name}"));
    };
    interface("sixteen_bytes_xx", "switch interface too long");
    for name in ["", "a b", "a/b", "a:0", ".", "..", "br%d", "bré"] {
        interface(name, "invalid switch interface");
    }
}

#[test]
fn a_group_has_at_most_15_bytes_and_ends_in_no_digit() {
    for block in ["switch \"s\" {\n\tinterface br0\n\tgroup NAME\n}\n", "vm v { disk d\n\n\tinterface group NAME\n}\n"]
    {
        config(&block.replace("NAME", "\"exactly15bytes_\""));
        refused(&block.replace("NAME", "sixteen_bytes_xx"), "3: invalid group name: sixteen_bytes_xx");
        refused(&block.replace("NAME", "dmz1"), "3: invalid group name: dmz1");
    }
}

#[test]
fn a_routing_domain_is_0_to_255() {
    for block in ["switch \"s\" {\n\tinterface br0\n\trdomain N\n}\n", "vm v { disk d\n\n\tinterface rdomain N\n}\n"] {
        config(&block.replace('N', "0"));
        config(&block.replace('N', "255"));
        refused(&block.replace('N', "256"), "3: invalid rdomain: 256");
        refused(&block.replace('N', "-1"), "3: invalid rdomain: -1");
    }
}

#[test]
fn a_disabled_switch_is_as_good_as_none() {
    let text =
        "switch \"s\" {\n\tinterface br0\n\tlocked lladdr\n\tdisable\n}\nvm v {\n\tdisk d\n\tinterface switch s\n}\n";
    let told = told(text);
    assert_eq!(told.warnings, ["8: switch \"s\" is disabled"]);
    let config = told.config.expect("right");
    assert!(
        !config.vms[0].nics[0].locked && config.switch(config.vms[0].nics[0].switch.as_ref().expect("s")).is_none()
    );
}

#[test]
fn of_two_switches_of_a_name_the_first_counts_with_a_warning() {
    let text = "switch s { interface br0 }\nswitch s { interface br1 }\nvm v {\n\tdisk d\n\tinterface switch s\n}\n";
    let told = told(text);
    assert_eq!(told.warnings, ["2: switch \"s\" is defined a second time: interfaces use the first"]);
    let config = told.config.expect("right");
    let used = config.switch(config.vms[0].nics[0].switch.as_ref().expect("s")).expect("the first");
    assert_eq!(used.interface.as_str(), "br0");
}

#[test]
fn a_switch_that_nothing_defines_is_warned_of_and_no_error() {
    let told = told("switch lan { interface br0 }\nvm v {\n\tdisk d\n\tinterface switch lam\n}\n");
    assert_eq!(told.warnings, ["4: switch \"lam\" not found"]);
    assert!(told.config.is_some());
}

/// In the original not of a switch below it.
#[test]
fn a_cards_lock_is_its_own_or_that_of_its_switch() {
    let locked = |text: &str| told(text).config.expect("right").vms[0].nics[0].locked;
    let vm = "vm v {\n\tdisk d\n\tinterface switch s\n}\n";
    let switch = "switch s {\n\tinterface br0\n\tlocked lladdr\n}\n";
    assert!(locked(&format!("{switch}{vm}")));
    assert!(locked(&format!("{vm}{switch}")));
    assert_eq!(told(&format!("{vm}{switch}")).warnings, [""; 0]);
    assert!(!locked(&format!("{vm}switch s {{ interface br0 }}\n{switch}")), "the first of the name counts");
    assert!(locked("vm v {\n\tdisk d\n\tinterface locked lladdr\n}\n"));
}

/// The original's VM is then in routing domain 0.
#[test]
fn a_card_on_a_switch_with_a_routing_domain_says_none_of_its_own() {
    let text = "switch s {\n\tinterface br0\n\trdomain 7\n}\nvm v {\n\tdisk d\n\tinterface switch s\n}\n";
    assert_eq!(config(text).vms[0].nics[0].rdomain, None);
}

#[test]
fn the_name_of_a_switch_has_at_most_63_bytes() {
    config(&format!("switch {} {{ interface br0 }}\n", "s".repeat(63)));
    let long = "s".repeat(64);
    refused(&format!("switch {long} {{ interface br0 }}\n"), &format!("1: switch name too long: {long}"));
    refused(&format!("vm v {{\n\tinterface switch {long}\n}}\n"), &format!("2: switch name too long: {long}"));
    refused("switch \"\" { interface br0 }\n", "1: invalid switch name: \"\"");
}
