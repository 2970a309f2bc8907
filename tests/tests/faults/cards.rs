//! The tap's step: its name is taken, its bridge is gone.

use crate::world::{Kind, ROUNDS, World};

const TAP9: &str = "interface tap9 { switch \"lan\" }";

/// VMs whose tap has a name, one that has taken it, and those with a card on a switch of their own.
pub const KINDS: [Kind; 3] = [("named", 17, TAP9), ("holder", 1, TAP9), ("away", 17, "interface { switch \"away\" }")];
/// The switch of the latter.
pub const SWITCH: &str = "switch \"away\" {\n\tinterface bridge1\n}\n";

pub fn all(world: &mut World) {
    let holder = world.next("holder");
    world.start(&holder).success();
    let words = "tap \"tap9\" is taken";
    world.fails(("a tap whose name is taken", "named"), ROUNDS / 2, words, |world, name| world.start(name));
    world.serves("a tap whose name is taken");
    world.stop(&holder);

    // At once: a bridge that is taken down first may be up again before it is deleted, as priv puts its state back.
    testkit::bridge::ip("link delete bridge1");
    let words = "bridge \"bridge1\" does not exist";
    world.fails(("a bridge that is gone", "away"), ROUNDS / 2, words, |world, name| world.start(name));
    world.serves("a bridge that is gone");
}
