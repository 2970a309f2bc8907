//! priv's edge: reads the parent's requests, asks the kernel, carries out what `switches.rs` and `kept.rs` decide.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use model::{IfName, MacAddr};
use proto::privileged::{LocalEnd, TapSpec, ToParent, ToPriv};
use proto::{Channel, Code, Failure, Received, RequestId};
use sys::event::{Interest, Loop};
use sys::ipv6::Settings;
use sys::netlink::{KERNEL_DEADLINE, Link, LinkKind, NetlinkError, Route, Watch};
use sys::tun::{self, TunError};

use super::Fatal;
use super::kept::{Fix, Kept, Wanted};
use super::looks::Looks;
use super::outside::{Outside, or_gone};
use super::switches::{self, GROUP, Make, Step, Switches, Undo};
use crate::ending;

/// How often a bridge's name may be found free and then be taken, or the other way round.
const MAX_TRIES: usize = 16;

/// priv: its peer, its socket, its memory.
pub(super) struct Edge {
    channel: Channel<ToParent, ToPriv>,
    route: Route,
    outside: Outside,
    switches: Switches,
    kept: Kept,
    rules: Watched,
    links: Watched,
}

/// What others change too: whether they did, where the kernel tells it, and when to look.
#[derive(Default)]
struct Watched {
    watch: Option<Watch>,
    looks: Looks,
}

impl Watched {
    fn new(watch: Result<Watch, NetlinkError>, what: &str) -> Self {
        let watch = watch.map_err(|error| log::warn!("what other programs change of {what} is not seen: {error}"));
        Self { watch: watch.ok(), looks: Looks::default() }
    }

    fn ready(&mut self, now: Instant) {
        match self.watch.as_ref().map(Watch::changed) {
            Some(Ok(true)) => self.looks.changed(now),
            Some(Ok(false)) | None => {}
            Some(Err(error)) => sys::guest_log!(Warn, "changes by other programs: {error}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Parent,
    Signals,
    Rules,
    Links,
}

impl Edge {
    /// In the network namespace of the calling thread.
    pub(super) fn new(channel: OwnedFd, settings: Option<Settings>, filter: Option<OwnedFd>) -> Result<Self, Fatal> {
        Ok(Self {
            channel: Channel::new(channel).patient(),
            route: Route::open(KERNEL_DEADLINE)?,
            outside: Outside::new(settings, filter),
            switches: Switches::default(),
            kept: Kept::default(),
            rules: Watched::new(Watch::rules(), "nftables"),
            links: Watched::new(Watch::links(), "interfaces"),
        })
    }

    /// Serves until the parent is gone, and then removes what was made. A signal ends it too, but then the parent starts
    /// another, and VMs run on: bridges and taps are left to that one.
    pub(super) fn serve(mut self) -> Result<(), Fatal> {
        self.attend()?;
        self.end();
        Ok(())
    }

    /// Until the parent is gone.
    pub(super) fn attend(&mut self) -> Result<(), Fatal> {
        let signals = ending::signals()?;
        let mut events = Loop::new()?;
        events.add(&self.channel, Token::Parent, Interest::Read)?;
        events.add(&signals, Token::Signals, Interest::Read)?;
        for (watched, token) in [(&self.rules, Token::Rules), (&self.links, Token::Links)] {
            if let Some(watch) = &watched.watch {
                events.add(watch, token, Interest::Read)?;
            }
        }
        self.take_over();
        let mut over = false;
        while !over {
            let deadlines = [&self.rules, &self.links].map(|watched| watched.looks.deadline());
            for ready in events.wait(deadlines.into_iter().flatten().min())? {
                match ready.token {
                    Token::Parent => over |= self.speak(),
                    Token::Signals if ending::is_told_to_end(&signals)? => return Err(Fatal::Signal),
                    Token::Signals => {}
                    Token::Rules => self.rules.ready(Instant::now()),
                    Token::Links => self.links.ready(Instant::now()),
                }
            }
            if !over {
                self.look(Instant::now());
            }
            events.change(&self.channel, Interest::of(true, self.channel.wants_write()))?;
        }
        Ok(())
    }

    /// Removes what was made.
    pub(super) fn end(&mut self) {
        if let Err(failure) = self.remove_all() {
            log::warn!("{failure}");
        }
    }

    /// Whether the conversation is over: a bad message costs only itself, a broken socket everything.
    fn speak(&mut self) -> bool {
        loop {
            let sent = match self.channel.flush().and_then(|()| self.channel.recv()) {
                Ok(Received::Message(message, fds)) => match self.carry_out(message, fds) {
                    Some((answer, fds)) => self.channel.send(&answer, fds),
                    None => Ok(()),
                },
                Ok(Received::Empty) => return false,
                Ok(Received::Closed) => return true,
                Err(error) => Err(error),
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.is_peers_fault() => {
                    sys::guest_log!(Warn, "refused a message of the parent: {error}");
                }
                Err(error) => {
                    log::warn!("the parent's channel: {error}");
                    return true;
                }
            }
        }
    }

    fn carry_out(&mut self, message: ToPriv, fds: Vec<OwnedFd>) -> Option<(ToParent, Vec<OwnedFd>)> {
        let (request, done) = match message {
            ToPriv::Verbose { debug } => {
                sys::log::set_level(sys::log::level_of(u8::from(debug)));
                return None;
            }
            ToPriv::TapGone { name } => {
                if let Err(error) = self.outside.tap_gone(&mut self.route, name.as_str()) {
                    sys::guest_log!(Warn, "rules in other tables may still accept \"{name}\" through: {error}");
                }
                return None;
            }
            ToPriv::Look { filtered } => {
                log::debug!("asked to look at all that was made; frames within bridges are filtered: {filtered}");
                self.kept.forgive();
                let now = Instant::now();
                self.rules.looks.at(now);
                self.links.looks.at(now);
                return None;
            }
            ToPriv::RemoveSwitch { bridge } => {
                self.switches.unwanted(bridge);
                self.links.looks.at(Instant::now());
                return None;
            }
            ToPriv::Sweep { request } => (request, self.remove_all().map(|()| (ToParent::Removed { request }, vec![]))),
            ToPriv::MakeSwitch { request, bridge, alias, external, up, rdomain } => {
                let vrf = self.vrf(rdomain);
                let made = vrf.and_then(|vrf| self.make_switch(&bridge, &alias, external, up, vrf.as_ref()));
                (request, made.map(|created| (ToParent::SwitchMade { request, created }, vec![])))
            }
            ToPriv::MakeTap { request, tap, filtered } => {
                let made = self.make_tap(&tap, fds);
                if let Some(bridge) = tap.bridge.as_ref().filter(|_| filtered && made.is_ok()) {
                    self.outside.bridged(bridge);
                }
                let answer = |(name, mac, fd)| (ToParent::TapMade { request, name, mac }, vec![fd]);
                (request, made.map(answer))
            }
        };
        Some(done.unwrap_or_else(|failure| failed(request, failure)))
    }

    /// What an earlier priv made is kept as it is found.
    fn take_over(&mut self) {
        let found = self.route.links().and_then(|links| Ok((links, self.route.addresses()?)));
        match found {
            Ok((links, addresses)) => {
                for (index, wanted) in switches::taken_over(&links, &addresses) {
                    self.kept.watch(index, wanted);
                }
            }
            Err(error) => log::warn!("interfaces that an earlier priv made: {error}"),
        }
        self.rules.looks.at(Instant::now());
    }

    /// Looks at what may have changed, and puts back what another program undid.
    fn look(&mut self, now: Instant) {
        if self.rules.looks.due(now)
            && let Err(error) = self.outside.look(&mut self.route)
        {
            sys::guest_log!(Warn, "whether the rules of vmd are all there could not be seen: {error}");
        }
        if self.links.looks.due(now)
            && let Err(error) = self.look_at_links(now)
        {
            sys::guest_log!(Warn, "whether interfaces of vmd are as they shall be could not be seen: {error}");
        }
    }

    fn look_at_links(&mut self, now: Instant) -> Result<(), NetlinkError> {
        let links = self.route.links()?;
        for undo in self.switches.no_longer_used(&links) {
            match (self.undo(&undo), &undo) {
                (Ok(()), Undo::Delete { name, .. }) => {
                    log::info!("bridge \"{name}\" removed: its switch is in vm.conf no more, and nobody uses it");
                }
                (Ok(()), Undo::Restore { .. } | Undo::Keep { .. }) => {}
                (Err(failure), _) => sys::guest_log!(Warn, "{failure}"),
            }
        }
        let addresses = self.route.addresses()?;
        for Fix { index, name, undone, steps } in self.kept.look(&links, &addresses, now) {
            match self.set(index, &steps) {
                Ok(()) => {}
                Err(error) if error.is_missing() => continue, // gone at this moment
                Err(error) => sys::guest_log!(Warn, "\"{name}\" can't be put back: {error}"),
            }
            let told = ToParent::PutBack { name, undone, gave_up: steps.is_empty() };
            // Where the channel is broken the loop sees it.
            if let Err(error) = self.channel.send(&told, vec![]) {
                log::debug!("the parent's channel: {error}");
            }
        }
        if let Some(retry) = self.kept.retry() {
            self.links.looks.at(retry.max(now));
        }
        Ok(())
    }

    /// True: the bridge is ours.
    fn make_switch(
        &mut self,
        bridge: &IfName,
        alias: &str,
        external: bool,
        up: bool,
        vrf: Option<&Link>,
    ) -> Result<bool, Failure> {
        let refused = |error| refused(format_args!("bridge \"{bridge}\""), &error);
        let mut created = None;
        for _ in 0..MAX_TRIES {
            let found = self.route.link(bridge.as_str()).map_err(refused)?;
            match self.switches.make(bridge, alias, external, up, vrf, found.as_ref())? {
                Make::Create => match self.route.create_bridge(bridge.as_str(), GROUP) {
                    Ok(link) => {
                        self.outside.without_inet6(&mut self.route, &link);
                        // As an upper limit for all ports together, those that are not vmd's too.
                        if let Err(error) = self.route.set_max_learned(link.index, switches::MAX_LEARNED) {
                            log::debug!("fdb_max_learned of \"{bridge}\": {error}");
                        }
                        created = Some(link.index);
                    }
                    Err(error) if error.is_taken() => {}
                    Err(error) => return Err(refused(error)),
                },
                Make::Set { index, steps, ours } => {
                    if let Err(error) = self.set(index, &steps) {
                        if error.is_missing() {
                            continue; // removed meanwhile
                        }
                        self.abandon(created);
                        return Err(refused(error));
                    }
                    if ours {
                        let master = vrf.map(|vrf| vrf.index);
                        self.kept.watch(index, Wanted { master, up, ..Wanted::default() });
                    }
                    log::info!("bridge \"{bridge}\" {} for {alias}", if ours { "made" } else { "joined" });
                    return Ok(ours);
                }
            }
        }
        self.abandon(created);
        Err(Failure::new(
            Code::Busy,
            format!("bridge \"{bridge}\" appears and disappears; does another program use it?"),
        ))
    }

    /// Goes on after a failure, and tells the first.
    fn remove_all(&mut self) -> Result<(), Failure> {
        self.kept.clear();
        let links = self.route.links().map_err(|error| refused(format_args!("interfaces"), &error))?;
        let mut first = Ok(());
        for undo in self.switches.remove_all(&links) {
            let done = self.undo(&undo);
            first = first.and(done);
        }
        let closed = self.outside.leave(&mut self.route);
        first.and(closed.map_err(|error| refused(format_args!("NAT of local interfaces"), &error)))
    }

    fn undo(&mut self, undo: &Undo) -> Result<(), Failure> {
        let (name, done) = match undo {
            Undo::Delete { index, name } => {
                log::debug!("\"{name}\" removed");
                (name, self.route.delete(*index))
            }
            Undo::Restore { index, name, up } => (name, self.route.set_up(*index, *up)),
            Undo::Keep { name, port } => {
                log::warn!("\"{name}\" was made by vmd and stays: \"{port}\" is still a port of it");
                return Ok(());
            }
        };
        or_gone(done).map_err(|error| refused(format_args!("\"{name}\" stays"), &error))
    }

    fn make_tap(&mut self, wanted: &TapSpec, fds: Vec<OwnedFd>) -> Result<(IfName, MacAddr, OwnedFd), Failure> {
        let no_fd = || Failure::new(Code::Invalid, "a request for a tap came without /dev/net/tun");
        let fd = fds.into_iter().next().ok_or_else(no_fd)?;
        let master = match &wanted.bridge {
            Some(bridge) => Some(self.master(bridge)?),
            None => self.vrf(wanted.rdomain)?,
        };
        let name = attach(&fd, wanted.name.as_ref())?;
        let refused = |error| refused(format_args!("tap \"{name}\""), &error);
        let gone = || Failure::new(Code::Io, format!("tap \"{name}\" vanished"));
        let tap = self.route.link(name.as_str()).map_err(refused)?.ok_or_else(gone)?;
        if wanted.local.is_none_or(|local| local.inet6.is_none()) {
            self.outside.without_inet6(&mut self.route, &tap);
        }
        let reached =
            |error| self::refused(format_args!("NAT of tap \"{name}\" (\"local nat no\" switches it off)"), &error);
        let made = switches::tap_steps(wanted, &tap, master.as_ref())
            .and_then(|steps| self.set_tap(&name, &tap, wanted.local.as_ref(), &steps).map_err(refused))
            .and_then(|()| match wanted.local.filter(|local| local.nat) {
                Some(local) => self.outside.reach(&mut self.route, tap.index, local.inet6.is_some()).map_err(reached),
                None => Ok(()),
            });
        // A step that fails ends the tap: it goes with its descriptor, and here should another hold that too.
        if let Err(failure) = made {
            self.abandon(Some(tap.index));
            return Err(failure);
        }
        self.kept.watch(tap.index, switches::wanted(wanted, master.as_ref()));
        let port = wanted.bridge.as_ref().map(|bridge| format!(", port of \"{bridge}\"")).unwrap_or_default();
        let local = wanted.local.map(|local| format!(", {}", local.inet)).unwrap_or_default();
        let inet6 = wanted.local.and_then(|local| local.inet6).map(|inet6| format!(" {inet6}")).unwrap_or_default();
        let alias = &wanted.alias;
        // Whoever makes many VMs has many of them: all count together.
        sys::log::by(log::Level::Info, "taps", format_args!("tap \"{name}\" made for {alias}{port}{local}{inet6}"));
        Ok((name, MacAddr(tap.mac.unwrap_or_default()), fd))
    }

    /// The VRF of a routing domain, made if there is none.
    fn vrf(&mut self, rdomain: Option<u8>) -> Result<Option<Link>, Failure> {
        let Some((name, table)) = switches::vrf(rdomain) else { return Ok(None) };
        let refused = |error| refused(format_args!("VRF \"{name}\" (is the module vrf there?)"), &error);
        if let Some(found) = self.route.link(&name).map_err(refused)? {
            let other = || Failure::new(Code::Invalid, format!("\"{name}\" is an interface, but not a VRF"));
            return if found.kind == LinkKind::Vrf { Ok(Some(found)) } else { Err(other()) };
        }
        let made = self.route.create_vrf(&name, table, GROUP).map_err(refused)?;
        let steps = [Step::Name(switches::other_name(&name)), Step::Mark(name.clone(), GROUP), Step::Up(true)];
        let marked = self.set(made.index, &steps);
        if let Err(error) = marked {
            self.abandon(Some(made.index));
            return Err(refused(error));
        }
        self.kept.watch(made.index, Wanted { up: true, ..Wanted::default() });
        log::info!("VRF \"{name}\" made, with routing table {table}");
        Ok(Some(made))
    }

    fn master(&mut self, bridge: &IfName) -> Result<Link, Failure> {
        let found = self.route.link(bridge.as_str());
        let found = found.map_err(|error| refused(format_args!("bridge \"{bridge}\""), &error))?;
        switches::master(bridge, found.as_ref()).cloned()
    }

    /// Its other name comes first: programs that set up interfaces look for it as soon as there is one.
    fn set_tap(
        &mut self,
        name: &IfName,
        tap: &Link,
        local: Option<&LocalEnd>,
        steps: &[Step],
    ) -> Result<(), NetlinkError> {
        let (first, rest) = steps.split_at(steps.len().min(1));
        self.set(tap.index, first)?;
        self.outside.limit(&mut self.route, name, local);
        self.set(tap.index, rest)
    }

    fn set(&mut self, index: u32, steps: &[Step]) -> Result<(), NetlinkError> {
        for step in steps {
            match step {
                Step::Mark(alias, group) => self.route.set_mark(index, alias, *group)?,
                Step::Name(name) => {
                    // Before Linux 5.5 there are none.
                    if let Err(error) = self.route.add_name(index, name) {
                        log::debug!("interface {index} is not also called \"{name}\": {error}");
                    }
                }
                Step::NameFor(name) => self.route.add_name(index, name)?,
                Step::Mac(mac) => self.route.set_mac(index, *mac)?,
                Step::Mtu(mtu) => self.route.set_mtu(index, *mtu)?,
                Step::Master(bridge) => self.route.set_master(index, Some(*bridge))?,
                Step::Isolated => self.route.set_isolated(index)?,
                Step::Up(up) => self.route.set_up(index, *up)?,
                Step::Address(address, bits) => self.route.add_address(index, *address, *bits)?,
            }
        }
        Ok(())
    }

    /// Removes what a request made that then failed.
    fn abandon(&mut self, made: Option<u32>) {
        let Some(index) = made else { return };
        if let Err(error) = or_gone(self.route.delete(index)) {
            sys::guest_log!(Warn, "interface {index} stays: {error}");
        }
    }
}

/// Makes the descriptor a tap under the first of its names that is free.
fn attach(fd: &OwnedFd, wanted: Option<&IfName>) -> Result<IfName, Failure> {
    for name in switches::tap_names(wanted) {
        match tun::attach(fd.as_fd(), name.as_str()) {
            Ok(()) => return Ok(name),
            Err(TunError::Busy) => {}
            Err(TunError::Refused(error)) => return Err(Failure::io(format!("tap \"{name}\""), &error)),
            Err(error @ TunError::Name) => {
                return Err(Failure::new(Code::Invalid, format!("tap \"{name}\": {error}")));
            }
        }
    }
    Err(switches::all_taken(wanted))
}

fn refused(what: std::fmt::Arguments<'_>, error: &NetlinkError) -> Failure {
    let code = match error {
        NetlinkError::Refused { errno, .. } => Code::of_errno(errno.raw_os_error()),
        NetlinkError::Deadline(_) => Code::TimedOut,
        NetlinkError::Malformed | NetlinkError::Unsteady | NetlinkError::Socket(_) => Code::Io,
    };
    Failure::new(code, format!("{what}: {error}"))
}

fn failed(request: RequestId, failure: Failure) -> (ToParent, Vec<OwnedFd>) {
    sys::guest_log!(Warn, "{failure}");
    (ToParent::Failed { request, failure }, vec![])
}
