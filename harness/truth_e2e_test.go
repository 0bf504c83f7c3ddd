package harness_test

import (
	"testing"

	"barrage/harness/report"
)

// Four accounts of one run, kept by nobody in common, say the same: frames by comet's
// counters and by the ledger, bytes by comet's counters, by the swarm's reads and by the
// kernel's sockets. Without heartbeats, so that no reply is under way at the end, they are
// equal to the byte: the WebSocket upgrades and the auth replies are in all three.
func TestAllAccountsAgree(t *testing.T) {
	for _, c := range []struct{ name, transport, comets string }{
		{"tcp", "{tcp: 1, ws: 0}", "1"},
		{"websocket", "{tcp: 0, ws: 1}", "1"},
		{"both, over two comets", "{tcp: 0.5, ws: 0.5}", "2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, "-ceiling=false", "-set", "clients.heartbeat=1h", "-set", "clients.transport="+c.transport, "-set", "cluster.comets="+c.comets,
				"-set", "phases.measure=2s", "smoke")
			if status := b.wait(t); status != 0 {
				t.Fatalf("exit status %d\n%s%s%s", status, b.stdout.String(), b.stderr, b.logs())
			}
			r := b.run(t)
			d := &r.Deliveries
			if r.Verdict.Status != report.Good || r.Clients.HeartbeatsSent != 0 {
				t.Fatalf("%+v, %d heartbeats", r.Verdict, r.Clients.HeartbeatsSent)
			}
			if delivered := d.Measured.Delivered + d.WarmUp.Delivered; delivered == 0 || d.LedgerFrames != delivered || d.CometFrames != delivered {
				t.Errorf("%d delivered, %d frames by the ledger, %d by comet", delivered, d.LedgerFrames, d.CometFrames)
			}
			if d.Bytes == 0 || d.KernelBytes != d.Bytes || d.CometBytes != d.Bytes || d.KernelUncounted != 0 {
				t.Errorf("%d bytes by the swarm, %d by the kernel (%d clients uncounted), %d by comet", d.Bytes, d.KernelBytes, d.KernelUncounted, d.CometBytes)
			}
		})
	}
}
