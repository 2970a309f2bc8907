//! What was killed and is not gone yet. Nobody waits for it: the loop looks again, and what stays is told of, since a process
//! in a call that nothing interrupts (a mount whose server does not answer, a dead disk) outlives its SIGKILL. Pure.

use std::time::{Duration, Instant};

use proto::VmId;

/// When something is looked at first.
const FIRST: Duration = Duration::from_millis(10);
/// And how often later; in between as often as it is old.
const SELDOM: Duration = Duration::from_secs(1);
/// What is not gone after this time counts as unkillable.
pub const UNKILLABLE: Duration = Duration::from_secs(10);

/// What is buried: a process, or all of a cgroup.
pub trait Body {
    /// Whether it is gone now. One that can't be asked is.
    fn is_gone(&mut self) -> bool;
    /// A process of it.
    fn pid(&self) -> u32;
}

/// One of them.
#[derive(Debug)]
pub struct Grave<B> {
    body: B,
    /// What it was, for people.
    pub what: &'static str,
    /// For which VM it worked.
    pub vm: Option<VmId>,
    /// When it was killed.
    pub since: Instant,
    look: Instant,
    unkillable: bool,
}

impl<B: Body> Grave<B> {
    /// A process of it.
    pub fn pid(&self) -> u32 {
        self.body.pid()
    }
}

/// All of them.
#[derive(Debug)]
pub struct Graves<B>(Vec<Grave<B>>);

impl<B> Default for Graves<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<B: Body> Graves<B> {
    /// Something was killed just now.
    pub fn put(&mut self, mut body: B, what: &'static str, vm: Option<VmId>, now: Instant) {
        if !body.is_gone() {
            self.0.push(Grave { body, what, vm, since: now, look: now + FIRST, unkillable: false });
        }
    }

    /// Looks at those that are due, or at `all`. Whether those that can't be killed are others now.
    pub fn look(&mut self, all: bool, now: Instant) -> bool {
        let mut changed = false;
        self.0.retain_mut(|grave| {
            if !all && grave.look > now {
                return true;
            }
            if grave.body.is_gone() {
                changed |= grave.unkillable;
                return false;
            }
            let age = now.saturating_duration_since(grave.since);
            grave.look = now + age.clamp(FIRST, SELDOM);
            if age >= UNKILLABLE && !grave.unkillable {
                (grave.unkillable, changed) = (true, true);
            }
            true
        });
        changed
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|grave| grave.look).min()
    }

    /// Those that are not gone after [`UNKILLABLE`].
    pub fn unkillable(&self) -> impl Iterator<Item = &Grave<B>> {
        self.0.iter().filter(|grave| grave.unkillable)
    }

    /// All that are not gone.
    pub fn left(&self) -> &[Grave<B>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    /// Gone when its test says so, and how often it was asked.
    struct Ghost(u32, Rc<Cell<bool>>, Rc<Cell<u32>>);

    impl Body for Ghost {
        fn is_gone(&mut self) -> bool {
            self.2.set(self.2.get() + 1);
            self.1.get()
        }

        fn pid(&self) -> u32 {
            self.0
        }
    }

    type World = (Graves<Ghost>, Rc<Cell<bool>>, Rc<Cell<u32>>, Instant);

    fn world() -> World {
        (Graves::default(), Rc::default(), Rc::default(), Instant::now())
    }

    #[test]
    fn what_is_gone_at_once_is_never_looked_at_again() {
        let (mut graves, gone, asked, now) = world();
        gone.set(true);
        graves.put(Ghost(7, gone, asked.clone()), "opener", None, now);
        assert_eq!((graves.left().len(), graves.deadline(), asked.get()), (0, None, 1));
    }

    #[test]
    fn it_is_looked_at_less_and_less_and_forgotten_when_it_is_gone() {
        let (mut graves, gone, asked, begun) = world();
        graves.put(Ghost(7, gone.clone(), asked.clone()), "opener", Some(VmId(1)), begun);
        let mut now = begun;
        let mut steps = Vec::new();
        for _ in 0..12 {
            let due = graves.deadline().expect("there is one");
            steps.push((due - now).as_millis());
            assert!(!graves.look(false, due - Duration::from_millis(1)), "not yet");
            assert!(!graves.look(false, due));
            now = due;
        }
        assert_eq!(steps, [10, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000]);
        assert_eq!(asked.get(), 13, "each time once");
        gone.set(true);
        assert!(!graves.look(true, now), "nobody was told of it");
        assert!(graves.left().is_empty());
    }

    #[test]
    fn what_stays_is_told_of_once_and_again_when_it_is_gone() {
        let (mut graves, gone, asked, begun) = world();
        graves.put(Ghost(7, gone.clone(), asked), "opener", Some(VmId(1)), begun);
        assert!(!graves.look(true, begun + UNKILLABLE - FIRST));
        assert!(graves.look(true, begun + UNKILLABLE));
        let told: Vec<_> = graves.unkillable().map(|grave| (grave.pid(), grave.what, grave.vm, grave.since)).collect();
        assert_eq!(told, [(7, "opener", Some(VmId(1)), begun)]);
        assert!(!graves.look(true, begun + 2 * UNKILLABLE));
        gone.set(true);
        assert!(graves.look(true, begun + 3 * UNKILLABLE));
        assert_eq!(graves.unkillable().count(), 0);
    }
}
