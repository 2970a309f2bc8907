//! End-to-end tests: real guests under the real daemon, one file per promise to the user.
