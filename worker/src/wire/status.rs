//! What a client is told when its call was not answered by the host.
//!
//! What may have been executed is never UNAVAILABLE or CANCELLED: meshes and clients send
//! those again, and the effect would double. What certainly was not executed says when to
//! try again.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of the reasons in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "shoal.dev";
/// The call may have been executed.
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// The call certainly was not executed.
pub const NOT_EXECUTED: &str = "NOT_EXECUTED";

/// Not executed, and not for lack of room.
pub fn unavailable(why: impl Into<String>, retry_after: Duration) -> Status {
    not_executed(Code::Unavailable, why, retry_after)
}

/// Not executed: what holds calls back is full.
pub fn exhausted(why: impl Into<String>, retry_after: Duration) -> Status {
    not_executed(Code::ResourceExhausted, why, retry_after)
}

fn not_executed(code: Code, why: impl Into<String>, retry_after: Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(retry_after));
    details.set_error_info(NOT_EXECUTED, DOMAIN, HashMap::<String, String>::new());
    Status::with_error_details(code, why, details)
}

/// May have been executed, once.
pub fn outcome_unknown(why: impl Into<String>) -> Status {
    with_reason(Code::Unknown, why, OUTCOME_UNKNOWN)
}

/// The deadline passed first.
pub fn deadline(executed: bool) -> Status {
    if executed {
        with_reason(
            Code::DeadlineExceeded,
            "the deadline passed before the owner answered",
            OUTCOME_UNKNOWN,
        )
    } else {
        with_reason(
            Code::DeadlineExceeded,
            "the deadline passed before the call reached its owner",
            NOT_EXECUTED,
        )
    }
}

fn with_reason(code: Code, why: impl Into<String>, reason: &str) -> Status {
    let none = HashMap::<String, String>::new();
    Status::with_error_details(code, why, ErrorDetails::with_error_info(reason, DOMAIN, none))
}

/// Over a limit that no retry changes.
pub fn too_large(what: &str, size: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!("the {what} has {size} bytes, the limit is {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_run_is_never_what_clients_send_again() {
        for status in [outcome_unknown("lost"), deadline(true)] {
            assert!(!matches!(status.code(), Code::Unavailable | Code::Cancelled));
            let info = status.get_details_error_info().expect("a reason");
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (OUTCOME_UNKNOWN, DOMAIN));
        }
    }

    #[test]
    fn what_did_not_run_says_when_to_try_again() {
        let after = Duration::from_millis(640);
        for (status, code) in [
            (unavailable("moving", after), Code::Unavailable),
            (exhausted("park full", after), Code::ResourceExhausted),
        ] {
            assert_eq!(status.code(), code);
            let retry = status.get_details_retry_info().expect("a pause");
            assert_eq!(retry.retry_delay, Some(after));
        }
        assert_eq!(deadline(false).code(), Code::DeadlineExceeded);
    }
}
