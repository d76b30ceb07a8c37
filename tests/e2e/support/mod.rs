//! What the tests share: the server under test, its clients, and proofs from the system.

pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod files;
pub(crate) mod http2;
pub(crate) mod kernel;
pub(crate) mod process;
pub(crate) mod server;
pub(crate) mod wait;

/// When the server under test hands connections to kernel TLS. Where the kernel has none, all three
/// stay in user space and must behave alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Auto,
    Always,
    Never,
}

impl Policy {
    /// As the configuration writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// Makes three tests of each function that takes a [`Policy`], named after it.
macro_rules! for_each_policy {
    ($($function:ident),+ $(,)?) => {
        $(mod $function {
            use crate::support::Policy;

            #[test]
            fn auto() {
                super::$function(Policy::Auto);
            }

            #[test]
            fn always() {
                super::$function(Policy::Always);
            }

            #[test]
            fn never() {
                super::$function(Policy::Never);
            }
        })+
    };
}
pub(crate) use for_each_policy;
