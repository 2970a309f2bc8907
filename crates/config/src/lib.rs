//! vm.conf(5): text in, checked configuration or a pointed error out.
#![forbid(unsafe_code)]
