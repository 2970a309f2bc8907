//! Section 5: the grammar and its layout. What the original refuses for its layout alone is accepted; each such case
//! says so.

use model::Right;

use crate::{config, errors, option_refused, refused, vm};

#[test]
fn an_opening_brace_stands_on_the_line_of_its_word() {
    for text in [
        "vm v\n{\n\tdisk d\n}\n",
        "switch s\n{\n\tinterface br0\n}\n",
        "vm v {\n\tinterface\n\t{ up }\n}\n",
        "vm v {\n\tdisk d\n\tallow instance\n\t{ boot }\n}\n",
    ] {
        assert!(errors(text)[0].contains("syntax error: found"), "{text}");
    }
    refused("vm v\n{\n\tdisk d\n}\n", "1: syntax error: found end of line");
}

/// The original calls it a syntax error.
#[test]
fn an_empty_block_says_nothing_and_what_it_lacks_is_told() {
    refused("vm \"x\" { }\n", "1: vm \"x\" failed: invalid configuration, no devices");
    refused("switch \"s\" {}\n", "1: switch \"s\" is missing interface name");
    assert_eq!(vm("interface { }").nics.len(), 1);
    assert!(vm("allow instance { }").allow.rights.is_empty());
}

/// The last but one is an error of the original's, which wants the brace on a line of its own behind two options.
#[test]
fn options_end_with_their_line_or_before_the_next_or_the_brace() {
    for text in [
        "vm v { disk d }",
        "vm v { disk d\n}",
        "vm v {\n\n\tdisk d\n\n\tdisable\n\n}",
        "vm v { memory 1G disk d\n}",
        "vm v { memory 1G\ndisk d }",
        "vm v { disk d enable disable }",
        "vm v { disk d owner root }",
    ] {
        assert_eq!(config(text).vms.len(), 1, "{text}");
    }
    assert_eq!(config("switch s { interface br0 }\nswitch t {\n\tup interface br0\n\n\tdown }\n").switches.len(), 2);
}

#[test]
fn options_of_an_interface_in_braces_have_blanks_or_lines_and_no_commas() {
    let nic = &vm("interface {\n\n\tup rdomain 1\n\tgroup g down }").nics[0];
    assert_eq!((nic.rdomain, nic.up), (Some(1), false));
    option_refused("interface { up, down }", "syntax error: found \",\"");
}

#[test]
fn options_of_an_interface_on_its_line_may_have_a_comma_behind_the_second_and_later() {
    let nic = &vm("interface tap up group \"g\", switch \"s\",").nics[0];
    assert_eq!((nic.up, nic.group.is_some(), nic.switch.is_some()), (true, true, true));
    option_refused("interface tap up, group \"g\"", "syntax error: a comma after the first interface option");
    option_refused("interface , up", "syntax error: found \",\"");
}

#[test]
fn rights_have_commas_or_lines_between_them_and_blanks_are_not_enough() {
    let rights = |text: &str| vm(&format!("allow instance {text}")).allow.rights.into_iter().collect::<Vec<_>>();
    assert_eq!(rights("{ boot, memory\n\n\tdisk,\n\ncdrom }"), [Right::Boot, Right::Cdrom, Right::Disk, Right::Memory]);
    assert_eq!(rights("boot"), [Right::Boot], "one alone needs no braces");
    option_refused("allow instance { boot memory }", "syntax error: found \"memory\"");
    option_refused("allow instance { boot, }", "syntax error: found \"}\"");
    option_refused("allow instance { up }", "syntax error: unknown instance right \"up\"");
}

#[test]
fn the_line_ends_behind_a_block() {
    refused("vm v { disk d } vm w { disk d }\n", "1: syntax error: found \"vm\"");
    refused("switch s { interface br0 } local inet6\n", "1: syntax error: found \"local\"");
}

#[test]
fn statements_come_in_any_order() {
    let read = config("local inet6\nvm v { disk d }\nm = x\nswitch s { interface br0 }\nvm $m { disk d }\n\n");
    assert_eq!((read.vms.len(), read.switches.len()), (2, 1));
}

#[test]
fn interface_alone_is_a_default_card() {
    let nic = &vm("interface").nics[0];
    assert_eq!(
        (nic.local, nic.tap.is_none(), nic.switch.is_none(), nic.up, nic.locked),
        (false, true, true, true, false)
    );
    assert!(vm("local interface").nics[0].local);
    option_refused("local", "syntax error: found end of line");
    option_refused("local disk \"d\"", "syntax error: found \"disk\"");
}

#[test]
fn each_option_has_the_argument_that_its_rule_says() {
    for option in [
        "disk",
        "disk \"d\" format",
        "boot",
        "boot device",
        "cdrom",
        "interfaces",
        "cpus",
        "memory",
        "owner",
        "allow",
        "allow instance",
    ] {
        option_refused(option, "syntax error: found end of line");
    }
    for (option, found) in [
        ("boot device memory", "unknown boot device \"memory\""),
        ("interfaces \"2\"", "syntax error: found \"2\""),
        ("cpus x", "syntax error: found \"x\""),
        ("memory up", "syntax error: found \"up\""),
        ("owner up", "syntax error: found \"up\""),
        ("interface tap3 tap4", "syntax error: found \"tap4\""),
        ("interface rdomain \"1\"", "syntax error: found \"1\""),
        ("interface locked up", "syntax error: found \"up\""),
        ("interface lladdr up lladdr 1x", "invalid address: 1x"),
        ("format raw", "syntax error: unknown vm option \"format\""),
        ("nifs 5", "syntax error: unknown vm option \"nifs\""),
    ] {
        option_refused(option, found);
    }
}

#[test]
fn a_name_is_a_string_and_neither_number_nor_keyword() {
    refused("vm 12 { disk d }\n", "1: syntax error: found number 12");
    refused("vm vm { disk d }\n", "1: syntax error: found \"vm\"");
    refused("switch up { interface br0 }\n", "1: syntax error: found \"up\"");
    refused("vm v instance { disk d }\n", "1: syntax error: found \"{\"");
}

/// Section 18, what is accepted there: one statement of each group.
#[test]
fn the_accepted_examples_of_the_specification_are_accepted() {
    let read = config(concat!(
        "d = \"/var/vm\"\nvm web1 {\n\tmemory 1.5G\t\t\t# string, 1610612736 bytes\n\tdisk $d \"/web1.img\"\n",
        "\tdisk $d/data.qcow2\n\tlocal interface\n\tinterface tap3 { locked lladdr 00:11:22:aa:bb:cc\n",
        "\t\trdomain 1 down }\n\tinterface tap up group \"g\", switch \"s\",\n",
        "\tallow instance { boot, memory\n\t\tdisk, owner :operator\n\t}\n\towner joe:operator\n}\n",
        "switch uplink { interface veb0 }\nlocal prefix \"10/8\"\nlocal prefix 192.168.0.0/16\n",
        "staggered start parallel 2 delay 10\nagentx path \"/var/agentx/master\" context \"x\"\n",
        "include \"/etc/vm.d/\" \"one.conf\"\nvm \"b\" {\n\tdisk x\n\tmemory 512M \\\n\t# a comment that \\\n",
        "\t  is still the comment\n\tdisable\n}\n"
    ));
    let web = &read.vms[0];
    let paths: Vec<_> = web.disks.iter().map(|disk| disk.path.to_string()).collect();
    assert_eq!(paths, ["/var/vm/web1.img", "/var/vm/data.qcow2"]);
    assert_eq!((web.memory.bytes(), web.nics.len(), web.allow.rights.len()), (1_610_612_736, 3, 3));
    assert_eq!(read.globals.local_prefix.to_string(), "192.168.0.0/16");
    assert_eq!(read.globals.staggered.map(|it| (it.parallel, it.delay_s)), Some((2, 10)));
    assert_eq!((read.vms[1].memory.bytes(), read.vms[1].enabled), (512 << 20, false));
}
