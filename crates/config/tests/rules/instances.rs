//! Section 11: instances in a file, where root asks; `config::instance` has the rules for users.

use model::Right;

use crate::{config, refused, vm};

const BASE: &str = "vm base {\n\tboot \"/k\"\n\tcpus 2\n\tmemory 1G\n\tdisk base.img\n\tcdrom c.iso\n\
    \tinterface tap3 { lladdr 2:0:0:0:0:1\n\tswitch lan }\n\tlocal interface\n\towner joe:staff\n\tALLOW\n}\n";

/// A file of the base, which allows this, and an instance of these options.
fn file(allow: &str, options: &str) -> String {
    let base = BASE.replace("ALLOW", if allow.is_empty() { "enable" } else { allow });
    format!("{base}vm base instance i {{\n\t{options}\n}}\n")
}

#[test]
fn a_template_stands_above_its_instances() {
    refused("vm no instance i { disk d }\n", "1: vm \"i\" failed: invalid template \"no\"");
    refused("vm base instance i { disk d }\nvm base { disk e }\n", "1: vm \"i\" failed: invalid template \"base\"");
}

#[test]
fn an_instance_inherits_all_but_disks_addresses_and_taps() {
    let read = config(&file("", "disk own.img"));
    let (base, made) = (&read.vms[0], &read.vms[1]);
    assert_eq!((made.cpus, made.memory, &made.boot, &made.cdrom), (base.cpus, base.memory, &base.boot, &base.cdrom));
    assert_eq!((made.owner, made.disks.len()), (base.owner, 1));
    let nics: Vec<_> = made.nics.iter().map(|nic| (nic.lladdr, nic.tap.is_some(), nic.local)).collect();
    assert_eq!(nics, [(None, false, false), (None, false, true)]);
    assert_eq!(made.nics[0].switch, base.nics[0].switch);
}

#[test]
fn an_instance_has_its_templates_description_or_its_own_or_none() {
    let described = |own: &str| {
        let text = format!(
            "vm base {{ disk base.img\n\tdescription \"the first\"\n}}\nvm base instance made {{ disk own.img\n\t{own}\n}}\n"
        );
        let made = config(&text).vms.remove(1);
        made.description.map(|description| description.to_string())
    };
    assert_eq!(described("").as_deref(), Some("the first"));
    assert_eq!(described("description \"its own\"").as_deref(), Some("its own"));
    assert_eq!(described("description \"\"").as_deref(), Some(""));
}

#[test]
fn root_sets_what_it_likes_without_a_right() {
    let made =
        config(&file("", "boot \"/own\"\n\tcpus 4\n\tmemory 2G\n\tdisk d\n\tcdrom d.iso\n\tinterface\n\towner ann"))
            .vms
            .remove(1);
    assert_eq!((made.cpus, made.memory.bytes(), made.owner.uid), (4, 2 << 30, 1001));
    assert_eq!((made.boot.as_deref(), made.cdrom.as_deref()), (Some("/own"), Some("d.iso")));
    assert_eq!((made.nics.len(), made.nics[0].switch.is_none()), (2, true), "its own first, then the template's");
}

#[test]
fn what_only_one_vm_can_have_is_not_the_templates() {
    for (option, said) in [
        ("disk base.img", "disk /here/base.img cannot be reused"),
        ("interface lladdr 2:0:0:0:0:1", "lladdr cannot be reused"),
        ("interface tap3", "interface cannot be reused"),
    ] {
        refused(&file("", option), &format!("13: vm \"i\" failed: {said}"));
    }
    config(&file("", "interface tap4 lladdr 2:0:0:0:0:2"));
}

#[test]
fn an_instance_has_no_permissions_of_its_own() {
    refused(&file("", "allow instance boot"), "13: vm \"i\" failed: cannot change instance permissions");
    let passed = config(&file("allow instance { instance, disk, owner ann }", "disk d")).vms.remove(1);
    assert_eq!((passed.allow.rights.len(), passed.allow.owner.map(|it| it.uid)), (2, Some(1001)));
    let kept = config(&file("allow instance { disk, owner ann }", "disk d")).vms.remove(1);
    assert_eq!((kept.allow.rights.len(), kept.allow.owner), (0, None));
}

#[test]
fn an_instance_whose_template_has_a_group_inherits_it_too() {
    assert_eq!(config(&file("", "owner ann")).vms[1].owner.gid, Some(20));
}

#[test]
fn an_instance_needs_something_to_boot_from_too() {
    let text = "vm base { disk d }\nvm base instance i { memory 1G }\n";
    refused(text, "2: vm \"i\" failed: no kernel or disk/cdrom specified");
}

#[test]
fn statements_of_rights_add_up_and_the_last_owner_counts() {
    let allow = vm("allow instance { boot, owner joe }\n\tallow instance memory\n\tallow instance owner :staff").allow;
    assert_eq!(allow.rights.into_iter().collect::<Vec<_>>(), [Right::Boot, Right::Memory]);
    assert_eq!(allow.owner.map(|owner| (owner.uid, owner.gid)), Some((0, Some(20))));
}

#[test]
fn each_right_is_its_word() {
    let all = vm("allow instance { boot, cdrom, cpus, disk, instance, interface, memory }").allow.rights;
    assert_eq!(
        all.iter().map(|right| right.word()).collect::<Vec<_>>().join(" "),
        "boot cdrom cpus disk instance interface memory"
    );
}

#[test]
fn nobody_but_root_makes_instances_where_nothing_is_allowed() {
    assert_eq!(vm("allow instance { boot }").allow.owner, None);
}
