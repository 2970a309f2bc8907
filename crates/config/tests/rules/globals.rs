//! Section 8: statements outside of all blocks, and `owner` wherever it stands.

use config::LocalInet6;

use crate::{config, errors, refused, told_by};

#[test]
fn of_a_repeated_statement_the_last_counts() {
    let globals = config(concat!(
        "local prefix 10.0.0.0/8\nlocal prefix 172.16.0.0/12\nsocket owner joe\nsocket owner ann:staff\n",
        "staggered start parallel 1 delay 1\nstaggered start parallel 3 delay 0\nagentx context a\nagentx\n",
        "local inet6 prefix \"fd00:1::\"\nlocal inet6\n"
    ))
    .globals;
    assert_eq!(globals.local_prefix.to_string(), "172.16.0.0/12");
    assert_eq!((globals.socket_owner.uid, globals.socket_owner.gid), (1001, Some(20)));
    assert_eq!(globals.staggered.map(|it| (it.parallel, it.delay_s)), Some((3, 0)));
    assert_eq!(globals.agentx.map(|it| (it.context, it.path)), Some((None, None)));
    assert_eq!(globals.local_inet6, Some(LocalInet6::Random));
}

#[test]
fn without_statements_everything_is_as_the_specification_says() {
    let globals = config("").globals;
    assert_eq!(globals.local_prefix.to_string(), "100.64.0.0/10");
    assert_eq!((globals.socket_owner.uid, globals.socket_owner.gid), (0, Some(0)));
    assert!(globals.local_inet6.is_none() && globals.agentx.is_none() && globals.staggered.is_none());
    assert!(globals.local_nat);
}

#[test]
fn a_local_prefix_is_told_what_is_wrong_with_it() {
    for (prefix, reason) in [
        ("\"10.0.0.0/0\"", "too small"),
        ("10.0.0.0/17", "too large"),
        ("10.0.0.0/x", "invalid"),
        ("host/8", "invalid format"),
        ("10.1.0.0/8", "bad mask"),
    ] {
        refused(&format!("local prefix {prefix}\n"), &format!("1: invalid local prefix: {reason}"));
    }
    assert_eq!(
        config("local prefix \"10\"\n").globals.local_prefix.to_string(),
        "10.0.0.0/16",
        "16 where none is said"
    );
    refused("local prefix 10\n", "1: syntax error: found number 10");
}

#[test]
fn a_local_inet6_prefix_is_told_what_is_wrong_with_it() {
    for (prefix, reason) in
        [("fd00::/65", "too large"), ("fd00::/x", "invalid"), ("\"host\"", "invalid format"), ("fd00::1", "bad mask")]
    {
        refused(&format!("local inet6 prefix {prefix}\n"), &format!("1: invalid local inet6 prefix: {reason}"));
    }
    let read = config("local inet6 prefix \"fd00:1::\"\n").globals.local_inet6;
    let Some(LocalInet6::Prefix(prefix)) = read else { panic!("{read:?}") };
    assert_eq!(prefix.to_string(), "fd00:1::/64");
}

#[test]
fn local_inet_and_local_nat_are_ours() {
    let globals = config("local inet prefix \"10/8\"\nlocal nat no\n").globals;
    assert_eq!((globals.local_prefix.to_string().as_str(), globals.local_nat), ("10.0.0.0/8", false));
    refused("local nat maybe\n", "1: syntax error: found \"maybe\"");
}

#[test]
fn an_owner_is_a_number_a_user_a_group_or_both() {
    let owner = |text: &str| {
        let owner = config(&format!("vm v {{\n\tdisk d\n\towner {text}\n}}\n")).vms[0].owner;
        (owner.uid, owner.gid)
    };
    assert_eq!(owner("4000"), (4000, None), "which need not exist");
    assert_eq!(owner("joe"), (1000, None));
    assert_eq!(owner("joe:staff"), (1000, Some(20)));
    assert_eq!(owner(":staff"), (0, Some(20)));
    assert_eq!(owner("joe:"), (1000, None));
    assert_eq!(owner("\":\""), (0, None));
    assert_eq!(owner("\"\""), (0, None));
}

/// The original cuts a number to 32 bits.
#[test]
fn an_owner_that_there_is_not_is_named() {
    let refused = |text: &str, said: &[&str]| {
        assert_eq!(
            errors(&format!("socket owner {text}\n")),
            said.iter().map(|it| format!("1: {it}")).collect::<Vec<_>>()
        );
    };
    refused("nosuch", &["failed to get user: nosuch"]);
    refused("joe:nosuch", &["failed to get group: nosuch"]);
    refused("1000:staff", &["failed to get user: 1000"]);
    refused("\"joe:staff:x\"", &["failed to get group: staff:x"]);
    refused("-1", &["invalid uid: -1"]);
    refused("4294967295", &["invalid uid: 4294967295"]);
    refused("4294967296", &["invalid uid: 4294967296"]);
    refused("slow", &["failed to get user: slow: no answer in 5 s"]);
}

#[test]
fn the_sockets_group_is_0_where_none_is_said() {
    let owner = |text: &str| {
        let owner = config(&format!("socket owner {text}\n")).globals.socket_owner;
        (owner.uid, owner.gid)
    };
    assert_eq!((owner("joe"), owner(":staff"), owner("5")), ((1000, Some(0)), (0, Some(20)), (5, Some(0))));
}

#[test]
fn agentx_takes_its_options_in_any_order_and_again() {
    let agentx = |text: &str| config(&format!("agentx {text}\n")).globals.agentx.expect("agentx");
    let both = agentx("path \"/a\" context x path \"/b\"");
    assert_eq!((both.context.as_deref(), both.path.as_deref()), (Some(&b"x"[..]), Some("/b")));
    assert_eq!(agentx("context x").path, None, "the default is the system's");
    refused("agentx path master\n", "1: agentx path is not absolute");
    refused("agentx extra\n", "1: syntax error: found \"extra\"");
    refused(&format!("agentx context {}\n", "c".repeat(33)), "1: agentx context too large");
    refused(&format!("agentx path /{}\n", "p".repeat(103)), "1: agentx path too large");
}

#[test]
fn agentx_strings_are_utf8() {
    for (option, said) in [
        (&b"context \"a\xe9\""[..], "1: agentx context is not UTF-8: \"a\u{fffd}\""),
        (b"path \"/a\xe9\"", "1: agentx path is not UTF-8: \"/a\u{fffd}\""),
        (b"path \"\xe9\"", "1: agentx path is not UTF-8: \"\u{fffd}\""),
    ] {
        let told = told_by(&[b"agentx ", option, b"\n"].concat(), &config::Macros::new(), &crate::world::World);
        assert_eq!(told.errors, [said]);
    }
}

/// The original takes any number, and then never starts a VM.
#[test]
fn a_staggered_start_has_both_numbers_and_starts_at_least_one() {
    refused("staggered start parallel 2\n", "1: syntax error: found end of line");
    refused("staggered start delay 2 parallel 1\n", "1: syntax error: found \"delay\"");
    refused("staggered start parallel 0 delay 1\n", "1: invalid parallel count: 0");
    refused("staggered start parallel 1 delay -1\n", "1: invalid delay count: -1");
    refused("staggered start parallel 2147483648 delay 1\n", "1: invalid parallel count: 2147483648");
    assert!(config("staggered start parallel 2147483647 delay 0\n").globals.staggered.is_some());
}
