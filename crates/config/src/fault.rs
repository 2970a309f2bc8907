//! All that can be wrong with a configuration: the message of each, and what to do about it. Where the original has
//! words for it, these are its words, with the value put in.

use std::io;

use model::{MemoryError, NameError, lookalike_in};

use crate::keyword::Block;
use crate::prefix::PrefixError;
use crate::request::Refusal;
use crate::size::SizeError;
use crate::suggest::closest;

/// One thing that is wrong. `Display` says what; [`Fault::hint`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message above each variant is its documentation")]
pub enum Fault {
    // tokens
    #[error("reached end of file while parsing quoted string")]
    UnfinishedQuote,
    #[error("syntax error: NUL byte in a quoted string")]
    NulInQuotes,
    #[error("string too long")]
    StringTooLong { limit: usize },
    #[error("\"{text}\" invalid number: {}", if *.negative { "too small" } else { "too large" })]
    NumberRange { text: String, negative: bool },
    #[error("macro '{name}' not defined")]
    MacroNotDefined { name: String, near: Option<String>, braces: Option<String> },
    #[error("a NUL byte ends the configuration")]
    NulEndsFile,
    // statements
    #[error("syntax error: found {found}")]
    Unexpected { found: String, expected: String, slip: Option<Slip> },
    #[error("syntax error: unknown {} \"{word}\"", .block.noun())]
    UnknownWord { word: String, block: Block },
    #[error("syntax error: this block is not closed")]
    NotClosed { noun: &'static str },
    #[error("syntax error: a comma after the first interface option")]
    CommaAfterFirst,
    #[error("syntax error: \"switch\" in a vm block")]
    SwitchInVm,
    #[error("syntax error: \"{word}\" is a keyword and can name no macro")]
    ReservedName { word: &'static str },
    #[error("macro name cannot contain whitespace")]
    MacroNameBlank,
    #[error("macro '{name}' not used")]
    MacroNotUsed { name: String },
    #[error("failed to include file {file}: {reason}")]
    IncludeFailed { file: String, reason: String },
    #[error("failed to include file {file}: it includes itself")]
    IncludeCircle { file: String },
    #[error("failed to include file {file}: more than {} MiB of configuration in all", .limit >> 20)]
    IncludeTooLarge { file: String, limit: usize },
    #[error("{what} specified more than once")]
    Repeated { what: &'static str, first_line: usize },
    // global statements
    #[error("\"{word}\" in a file that is loaded")]
    NotLoaded { word: &'static str },
    #[error("invalid local prefix: {reason}")]
    LocalPrefix { reason: PrefixError },
    #[error("invalid local inet6 prefix: {reason}")]
    LocalInet6Prefix { reason: PrefixError },
    #[error("agentx context too large")]
    AgentXContextTooLarge { limit: usize },
    #[error("agentx path too large")]
    AgentXPathTooLarge { limit: usize },
    #[error("agentx path is not absolute")]
    AgentXPathNotAbsolute,
    #[error("invalid {what} count: {number}")]
    CountRange { what: &'static str, number: i64, least: i64 },
    #[error("invalid uid: {number}")]
    UidRange { number: i64 },
    #[error("failed to get {kind}: {name}{}", cause(.reason))]
    UnknownAccount { kind: &'static str, name: String, reason: Option<String>, alone: bool },
    // switches
    #[error("invalid switch name: \"{name}\"")]
    SwitchNameInvalid { name: String },
    #[error("switch name too long: {name}")]
    SwitchNameTooLong { name: String },
    #[error("switch \"{switch}\" is missing interface name")]
    SwitchWithoutInterface { switch: String },
    #[error("invalid switch interface: {name}")]
    SwitchInterfaceInvalid { name: String },
    #[error("switch interface too long: {name}")]
    SwitchInterfaceTooLong { name: String },
    #[error("switch \"{name}\" is defined a second time: interfaces use the first")]
    SwitchDefinedTwice { name: String, first_line: usize },
    #[error("switch \"{name}\" {}", if *.disabled { "is disabled" } else { "not found" })]
    SwitchNotFound { name: String, disabled: bool, near: Option<String> },
    #[error("invalid group name: {name}")]
    GroupNameInvalid { name: String, too_long: bool },
    #[error("no interface group \"{name}\"{}", cause(.reason))]
    GroupUnknown { name: String, reason: Option<String> },
    #[error("invalid rdomain: {number}")]
    RdomainInvalid { number: i64, limit: u8 },
    // VMs
    #[error("{}", if *.template { format!("vm {name} name too long") } else { "vm name too long".to_owned() })]
    VmNameTooLong { name: String, template: bool },
    #[error("invalid VM name \"{name}\"")]
    VmNameInvalid { name: String },
    #[error("vm \"{name}\" is defined a second time: this block has no effect")]
    VmDefinedTwice { name: String, first_line: usize },
    #[error("vm \"{name}\" failed: {reason}")]
    VmRefused { name: String, reason: Refusal },
    #[error("failed to parse size: {text}: {reason}")]
    MemorySize { text: String, reason: MemoryError, plain: bool },
    #[error("invalid memory size: {text}: {reason}")]
    MemorySyntax { text: String, reason: SizeError },
    #[error("invalid number of cpus: {number}")]
    CpusInvalid { number: i64, limit: u8 },
    #[error("invalid number of device restarts: {number}")]
    DeviceRestarts { number: i64, limit: u8 },
    #[error("unknown boot device \"{device}\"")]
    BootDevice { device: String },
    #[error("{what} path not found: \"{path}\": {reason}")]
    PathNotFound { what: &'static str, path: String, reason: String },
    #[error("{what} is not UTF-8: \"{text}\"")]
    NotUtf8 { what: String, text: String },
    #[error("{what} path leads to a name that is not UTF-8: \"{path}\"")]
    LeadsToNotUtf8 { what: &'static str, path: String },
    #[error("{what} path too long")]
    PathTooLong { what: &'static str, limit: usize },
    #[error("{what} {}", refusal(*.reason, *.length))]
    TextRefused { what: &'static str, length: usize, reason: NameError },
    #[error("{what} has no effect without \"boot\"")]
    NoKernelFor { what: &'static str },
    #[error("failed to parse disks: {disk}: too many disks")]
    TooManyDisks { disk: String, limit: usize },
    #[error("unrecognized disk format {word}")]
    DiskFormat { word: String },
    #[error("invalid {what}: {text}")]
    RateRange { what: &'static str, text: String, expected: &'static str },
    #[error("invalid {what}: {text}: {reason}")]
    RateSyntax { what: &'static str, text: String, reason: SizeError },
    // interfaces
    #[error("too many interfaces: {number}")]
    TooManyInterfaces { number: i64, limit: usize },
    #[error("invalid interface: {name}")]
    InterfaceInvalid { name: String },
    #[error("interface name too long: {name}")]
    InterfaceTooLong { name: String },
    #[error("an interface in rdomain {number} can't be on switch \"{switch}\" in rdomain {rdomain}")]
    RdomainOfSwitch { number: u8, switch: String, rdomain: u8 },
    #[error("invalid address: {text}")]
    LladdrInvalid { text: String },
    #[error("lladdr {text} is a multicast address: no guest can use it as its own")]
    LladdrMulticast { text: String },
    #[error("a local interface can't be on a switch")]
    LocalOnSwitch,
    #[error("a local interface in a routing domain has no NAT")]
    LocalInRdomain,
}

/// What is behind something unexpected, where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slip {
    /// This word or number stands without quotes here.
    Quoted(String),
    /// A `$` in the value of a macro.
    DollarInValue,
    /// The file begins with a byte order mark.
    ByteOrderMark,
    /// A shell's word for a home.
    Tilde,
    /// A character that is not what it seems, and what to write.
    Lookalike(String),
}

impl Slip {
    fn hint(&self) -> String {
        match self {
            Self::Quoted(word) => unquoted(word),
            Self::DollarInValue => {
                "a macro's value is not expanded again; define it without quotes, as in name = $other".to_owned()
            }
            Self::ByteOrderMark => "the file begins with a byte order mark; save it without one".to_owned(),
            Self::Tilde => TILDE.to_owned(),
            Self::Lookalike(told) => format!("this is {told}"),
        }
    }
}

/// What a shell does, and vm.conf does not.
const TILDE: &str = "\"~\" is no home here, as it is for a shell: write the whole path, from \"/\"";

/// Words that are reserved: as text they have been quoted.
const BOOT_DEVICES: [&str; 3] = ["cdrom", "disk", "net"];

fn unquoted(word: &str) -> String {
    format!("write {word} without quotes")
}

/// What is wrong with a text.
fn refusal(reason: NameError, length: usize) -> String {
    match reason {
        NameError::TooLong(_) => format!("too long: {length} bytes"),
        NameError::Character(odd) | NameError::First(odd) | NameError::Last(odd) => {
            format!("contains the character {odd:?}")
        }
        NameError::NotUtf8 => "is not UTF-8".to_owned(),
        NameError::Empty => "is empty".to_owned(),
    }
}

fn cause(reason: &Option<String>) -> String {
    reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

impl Fault {
    /// The system's reason, without Rust's number behind it.
    pub(crate) fn reason(error: &io::Error) -> String {
        let text = error.to_string();
        text.split(" (os error").next().unwrap_or_default().to_owned()
    }

    /// It may be another tomorrow, and keeps no other VM from its work: a file that is missing, an account that is not known.
    pub(crate) fn is_of_one_vm(&self) -> bool {
        matches!(self, Self::PathNotFound { .. } | Self::UnknownAccount { .. })
    }

    /// An account is missing, so that it is not known whose the VM is.
    pub fn is_of_an_owner(&self) -> bool {
        matches!(self, Self::UnknownAccount { .. })
    }

    /// What to do, or what was expected instead; stands behind the caret.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unexpected { expected, slip: None, .. } => format!("expected {expected}"),
            Self::Unexpected { slip: Some(slip), .. } => slip.hint(),
            Self::UnknownWord { word, block } => return Some(word_hint(word, *block)),
            Self::MacroNotDefined { braces: Some(name), .. } => format!("write ${name}, without braces"),
            Self::MacroNotDefined { near, .. } | Self::SwitchNotFound { near: near @ Some(_), .. } => {
                return near.as_ref().map(|near| format!("did you mean \"{near}\"?"));
            }
            Self::SwitchNotFound { .. } => "the interface will be attached to no bridge".to_owned(),
            Self::StringTooLong { limit } => format!("at most {limit} bytes"),
            Self::UnfinishedQuote => "this quote is not closed".to_owned(),
            Self::NulInQuotes => "remove it".to_owned(),
            Self::NulEndsFile => "what follows is not read".to_owned(),
            Self::NotClosed { noun } => format!("expected another {noun} or \"}}\""),
            Self::CommaAfterFirst => "a blank separates options".to_owned(),
            Self::SwitchInVm => "write it behind \"interface\", or close this block with \"}\" first".to_owned(),
            Self::Repeated { first_line, .. } => format!("first given on line {first_line}"),
            Self::SwitchDefinedTwice { first_line, .. } | Self::VmDefinedTwice { first_line, .. } => {
                format!("first defined on line {first_line}")
            }
            Self::LocalPrefix { reason } => prefix_hint(*reason, "1 to 16", "10.0.0.0/8"),
            Self::LocalInet6Prefix { reason } => prefix_hint(*reason, "0 to 64", "fd00:1::/64"),
            Self::AgentXContextTooLarge { limit }
            | Self::AgentXPathTooLarge { limit }
            | Self::PathTooLong { limit, .. } => {
                format!("at most {limit} bytes")
            }
            Self::AgentXPathNotAbsolute => "expected a path that begins with \"/\"".to_owned(),
            Self::CountRange { least, .. } => format!("expected {least} to {}", i32::MAX),
            Self::UidRange { .. } => "expected 0 to 4294967294".to_owned(),
            Self::UnknownAccount { reason: Some(_), .. } => return None,
            Self::UnknownAccount { kind, name, alone, .. } => account_hint(kind, name, *alone),
            Self::SwitchNameInvalid { .. } => "expected 1 to 63 bytes of text, without control characters".to_owned(),
            Self::SwitchNameTooLong { .. } | Self::VmNameTooLong { .. } => "at most 63 bytes".to_owned(),
            Self::SwitchWithoutInterface { .. } => "add a line such as \"interface br0\"".to_owned(),
            Self::SwitchInterfaceInvalid { .. } => {
                "expected a bridge's name without blanks, \"/\", \":\" and \"%\", in ASCII".to_owned()
            }
            Self::SwitchInterfaceTooLong { .. } | Self::InterfaceTooLong { .. } => "at most 15 bytes".to_owned(),
            Self::GroupNameInvalid { too_long: true, .. } => "at most 15 bytes".to_owned(),
            Self::GroupNameInvalid { .. } => "a group must not end in a digit".to_owned(),
            Self::GroupUnknown { reason: Some(_), .. } => return None,
            Self::GroupUnknown { name, .. } => {
                format!("add a line such as \"1000 {name}\" to /etc/iproute2/group; until then it has no effect")
            }
            Self::RdomainInvalid { limit, .. } => format!("expected 0 to {limit}"),
            Self::VmNameInvalid { name } if lookalike_in(name).is_none() => {
                "expected letters, digits, \".\", \"-\" and \"_\", the first a letter or digit".to_owned()
            }
            Self::VmRefused { reason, .. } => return refusal_hint(reason),
            Self::MemorySize { text, plain: true, reason: MemoryError::TooSmall } => bytes_hint(text),
            Self::MemorySize { .. } => return None,
            Self::MemorySyntax { reason: SizeError::Invalid, .. }
            | Self::RateSyntax { reason: SizeError::Invalid, .. } => {
                "expected a number with B, K, M, G or T".to_owned()
            }
            Self::RateRange { expected, .. } => (*expected).to_owned(),
            Self::RateSyntax { reason: SizeError::TooLarge, .. } => "at most 1P".to_owned(),
            Self::MemorySyntax { .. } => "at most 128G".to_owned(),
            Self::CpusInvalid { limit, .. } => format!("expected 1 to {limit}"),
            Self::DeviceRestarts { limit, .. } => format!("expected 0 to {limit}"),
            Self::BootDevice { device } if BOOT_DEVICES.contains(&device.as_str()) => unquoted(device),
            Self::BootDevice { .. } => "expected \"cdrom\", \"disk\" or \"net\"".to_owned(),
            Self::TextRefused { reason: NameError::TooLong(limit), .. } => format!("at most {limit} bytes"),
            Self::TextRefused { reason: NameError::Empty, .. } => "write it, or remove the line".to_owned(),
            Self::TextRefused { .. } => "remove that character".to_owned(),
            Self::NoKernelFor { .. } => "the firmware does not read it".to_owned(),
            Self::TooManyInterfaces { number: ..0, limit } => format!("expected 0 to {limit}"),
            Self::TooManyDisks { limit, .. } | Self::TooManyInterfaces { limit, .. } => format!("at most {limit}"),
            Self::DiskFormat { .. } => "expected \"raw\" or \"qcow2\"".to_owned(),
            Self::InterfaceInvalid { name } if Block::Interface.words().contains(&name.as_str()) => unquoted(name),
            Self::InterfaceInvalid { .. } => {
                "expected \"tap\" or \"tap\" and a number; a bridge is named by \"switch\"".to_owned()
            }
            Self::LladdrInvalid { .. } => "expected six octets such as \"fe:e1:bb:d1:12:34\"".to_owned(),
            Self::LladdrMulticast { .. } => "the first octet must be even".to_owned(),
            Self::RdomainOfSwitch { .. } => "an interface has one master, here the bridge; remove it".to_owned(),
            Self::LocalOnSwitch => {
                "a bridge's port has no addresses of its own; give the VM a second interface".to_owned()
            }
            Self::LocalInRdomain => "its ways out are those that you give the VRF".to_owned(),
            Self::ReservedName { .. } => "choose another name".to_owned(),
            Self::PathNotFound { path, .. } if path.starts_with('~') => TILDE.to_owned(),
            Self::VmNameInvalid { name: text } | Self::PathNotFound { path: text, .. }
                if lookalike_in(text).is_some() =>
            {
                return lookalike_in(text).map(|told| format!("it has {told}"));
            }
            Self::VmNameInvalid { .. } => return None,
            Self::PathNotFound { what: "disk", .. } => {
                "correct the path, or make a disk with \"vmctl create\"".to_owned()
            }
            Self::PathNotFound { what: "kernel", path, .. } if path == "device" => unquoted(path),
            Self::PathNotFound { .. } => "correct the path".to_owned(),
            Self::NotUtf8 { .. } => "write it in UTF-8".to_owned(),
            Self::LeadsToNotUtf8 { .. } => "rename the file".to_owned(),
            Self::NotLoaded { .. } => {
                "only vm and switch may be loaded; all else belongs into the daemon's own file".to_owned()
            }
            Self::MacroNameBlank => "letters, digits and \"_\" can be referred to".to_owned(),
            Self::NumberRange { .. }
            | Self::MacroNotUsed { .. }
            | Self::IncludeFailed { .. }
            | Self::IncludeCircle { .. }
            | Self::IncludeTooLarge { .. } => return None,
        };
        Some(text)
    }
}

fn word_hint(word: &str, block: Block) -> String {
    let near = block.other_name(word).or_else(|| closest(word, block.words().iter().copied()));
    match near {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if Block::File.words().contains(&word) => {
            "it stands outside of all blocks; close this one with \"}\" first".to_owned()
        }
        None if block == Block::File && Block::Vm.words().contains(&word) => {
            "it is an option: write it in a \"vm\" block".to_owned()
        }
        None if block == Block::File => "expected a statement, or NAME = VALUE for a macro".to_owned(),
        None => {
            let words: Vec<String> = block.words().iter().map(|word| format!("\"{word}\"")).collect();
            format!("expected {}", words.join(", "))
        }
    }
}

fn prefix_hint(reason: PrefixError, lengths: &str, example: &str) -> String {
    match reason {
        PrefixError::TooSmall | PrefixError::TooLarge | PrefixError::Invalid => {
            format!("expected a length of {lengths}")
        }
        PrefixError::Format => format!("expected a network such as \"{example}\""),
        PrefixError::BadMask => "bits beyond the length must be zero".to_owned(),
    }
}

fn account_hint(kind: &str, name: &str, alone: bool) -> String {
    match name.bytes().all(|byte| byte.is_ascii_digit()) {
        true if alone => unquoted(name),
        true => format!("with \":\" a {kind} is given by name"),
        false => format!("no {kind} has this name"),
    }
}

fn refusal_hint(reason: &Refusal) -> Option<String> {
    let text = match reason {
        Refusal::NoDevices | Refusal::NothingToBoot => "add a \"disk\", \"boot\" or \"cdrom\" line",
        Refusal::TemplateUnknown(_) => "define it above its instances",
        Refusal::MayNotAllow => "remove \"allow instance\": an instance has its template's",
        Refusal::DiskReused(_) | Refusal::LladdrReused | Refusal::TapReused => "its template has the same",
        _ => return None,
    };
    Some(text.to_owned())
}

/// A size without a unit is mostly meant as megabytes.
fn bytes_hint(text: &str) -> String {
    match text.parse::<i64>() {
        Ok(1..=131_072) => format!("a number alone is bytes; did you mean \"{text}M\"?"),
        _ => "a number alone is bytes; write it with M or G".to_owned(),
    }
}
