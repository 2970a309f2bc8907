//! The table of roles for docs/roles.md, made from the promises so that it can't be wrong.

use crate::calls::Made;
use crate::filter::groups;
use crate::promise::{Capabilities, Namespaces, Promise, ROLES, Root, User};

/// The roles as a Markdown table.
pub fn table() -> String {
    let head = "| role | user | capabilities | root | own namespaces | seccomp | no_new_privs | Landlock | starts |\n\
                |---|---|---|---|---|---|---|---|---|\n";
    let rows = ROLES.iter().map(|promise| row(promise));
    head.to_owned() + &rows.collect::<String>()
}

/// What a role is allowed and may not be seen to do, as a Markdown table.
pub fn unseen() -> String {
    let mut rows: Vec<String> = Vec::new();
    for group in ROLES.into_iter().flat_map(groups) {
        let row = |call: &str, why: &str| format!("| {} | {call} | {why} |\n", group.name);
        let whole = match group.made {
            Made::ByEach => None,
            Made::BySome(why) => Some(row("each is made by some role", why)),
            Made::Perhaps(why) => Some(row("any", why)),
        };
        let calls = group.calls.iter().filter_map(|call| call.rare?.split_once(": "));
        rows.extend(whole.into_iter().chain(calls.map(|(call, why)| row(call, why))));
    }
    let mut seen = std::collections::BTreeSet::new();
    rows.retain(|row| seen.insert(row.clone()));
    "| group | call | why |\n|---|---|---|\n".to_owned() + &rows.concat()
}

fn row(promise: &Promise) -> String {
    let starts: Vec<&str> = promise.starts.iter().map(|child| child.name).collect();
    format!(
        "| {} | {} | {} | {} | {} | {} | yes | {} | {} |\n",
        promise.name,
        user(promise.user),
        capabilities(promise),
        root(promise.root),
        namespaces(promise.own),
        calls(promise),
        files(promise),
        or_none(&starts.join(", ")),
    )
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

fn user(user: User) -> &'static str {
    match user {
        User::Root => "root",
        User::Vmd => "_vmd",
        User::Vm => "the VM's own",
        User::Asker => "the asker",
    }
}

fn root(root: Root) -> &'static str {
    match root {
        Root::Host => "the host's",
        Root::Empty => "empty",
        Root::Inherited => "empty (its starter's)",
    }
}

fn capabilities(promise: &Promise) -> String {
    let names = |set: Capabilities| or_none(&set.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(" "));
    match promise.then {
        Some(then) if then.keeps != promise.keeps => {
            format!("{}; at first also {}", names(then.keeps), names(promise.keeps.difference(then.keeps)))
        }
        _ if !promise.keeps_inside.is_empty() => {
            format!("{}; in its own user namespace {}", names(promise.keeps), names(promise.keeps_inside))
        }
        _ => names(promise.keeps),
    }
}

fn namespaces(own: Namespaces) -> String {
    let names = [(own.mount, "mount"), (own.net, "net"), (own.ipc, "ipc")];
    let made: Vec<&str> = names.iter().filter(|(made, _)| *made).map(|(_, name)| *name).collect();
    or_none(&made.join(" "))
}

fn calls(promise: &Promise) -> String {
    let names = |promise: &Promise| promise.calls.iter().map(|group| group.name).collect::<Vec<_>>();
    match promise.then {
        None => names(promise).join(" "),
        Some(then) => {
            let left = names(then);
            let dropped: Vec<&str> = names(promise).into_iter().filter(|name| !left.contains(name)).collect();
            format!("{}; at first also {}", left.join(" "), dropped.join(" "))
        }
    }
}

fn files(promise: &Promise) -> String {
    use crate::promise::{Access, File};
    let Some(rules) = promise.files else { return "no domain".to_owned() };
    let rule = |(file, access): &(File, Access)| {
        let access = match access {
            Access::Execute => "execute",
            Access::ReadWrite => "read, write",
        };
        let file = match file {
            File::OwnExecutable => "its own executable",
            File::Everything => "what exists",
            File::Ipv6Settings => "IPv6 settings",
        };
        format!("{access} {file}")
    };
    if rules.is_empty() { "no name".to_owned() } else { rules.iter().map(rule).collect::<Vec<_>>().join(", ") }
}
