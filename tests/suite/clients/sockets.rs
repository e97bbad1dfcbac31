//! websockets: a WebSocket of another's making, closed with its code.

use super::grpc::Running;
use super::{revoke, run, script};
use crate::support::front::Gate;
use crate::support::peer::peer;
use crate::support::upstream::{Reply, Upstream};

#[test]
fn a_web_socket_is_told_1008_by_its_name() {
    let Some(python) = peer("PORTREEVE_PYTHON") else { return };
    let upstream = Upstream::new(|_| Reply::Switch(b"\x81\x05hello\x81\x05again".to_vec()));
    let gate = Gate::new(upstream.address());
    let at = gate.running.address().to_string();
    let refused = run(script(&python, "websocket_client.py").arg(&at));
    assert_eq!((refused.out.as_str(), upstream.is_untouched()), ("refused 401\n", true), "{}", refused.err);
    let mut client = Running::start(&python, "websocket_client.py", &[&at, &gate.token()]);
    assert_eq!(client.says(), "told hello");
    assert_eq!(client.says(), "told again");
    assert_eq!(revoke(&gate), 1);
    assert_eq!(client.rest(), ["closed 1008"]);
    upstream.wait_closed();
}
