package console

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"barrage/server/wire"

	"github.com/chromedp/chromedp"
)

// newClientPage opens the page in a browser, for its modules, with a comet that is not one.
func newClientPage(t *testing.T) (*browser, *fakeComet) {
	t.Helper()
	b := newBrowser(t)
	s, err := New(DefaultConfig(), Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f := newFakeComet(t, s.Handler())
	b.do("open the client's file", chromedp.Navigate(f.URL+"/barrage.js"))
	return b, f
}

// The client's frames are the server's, byte for byte, in both directions.
func TestTheClientsCodec(t *testing.T) {
	b, _ := newClientPage(t)
	type frame struct {
		Ver  int16  `json:"ver"`
		Op   int32  `json:"op"`
		Seq  int32  `json:"seq"`
		Text string `json:"body"`
	}
	frames := []frame{
		{1, 7, 1, `{"room_id":"live://1000"}`},
		{1, 2, 2147483647, ""},
		{0, 1000, 0, "héllo 你好"},
		{-2, -1, -2147483648, "\x00\n"},
		{1, 2147483647, 0, strings.Repeat("x", 70_000)},
	}
	var all []byte
	for _, f := range frames {
		encoded := wire.AppendFrame(nil, wire.Frame{Ver: f.Ver, Op: wire.Op(f.Op), Seq: f.Seq, Body: []byte(f.Text)})
		all = append(all, encoded...)
		argument, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		got := eval[string](b, fmt.Sprintf(`import("/barrage.js").then((m) => [...m.encodeFrame(%s)].map((b) => b.toString(16).padStart(2, "0")).join(""))`, argument))
		if got != hex.EncodeToString(encoded) {
			t.Errorf("%+.60v is encoded as %.80s, want %.80x", f, got, encoded)
		}
	}

	// in is the bytes as an expression; the offset shows that views into buffers are right.
	decode := func(function string, in []byte) (string, []frame) {
		text := eval[string](b, fmt.Sprintf(`import("/barrage.js").then((m) => {
			const hex = "ffff%s", bytes = Uint8Array.from(hex.match(/../g), (h) => parseInt(h, 16)).subarray(2);
			try {
				return JSON.stringify(m.%s(bytes).map((f) => ({...f, body: new TextDecoder().decode(f.body)})));
			} catch (err) {
				return err.name + ": " + err.message;
			}
		})`, hex.EncodeToString(in), function))
		var got []frame
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			return text, nil
		}
		return "", got
	}
	batch := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpRaw, Body: all})
	for _, c := range []struct {
		function string
		in       []byte
	}{{"decodeFrames", all}, {"decodeMessage", all}, {"decodeMessage", batch}} {
		if trouble, got := decode(c.function, c.in); trouble != "" || !slices.Equal(got, frames) {
			t.Errorf("%s: %s %.200v", c.function, trouble, got)
		}
	}
	good := wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: 1000, Body: []byte("abc")})
	with := func(offset int, value byte) []byte {
		bad := slices.Clone(good)
		bad[offset] = value
		return bad
	}
	for _, c := range []struct {
		name string
		in   []byte
		want string
	}{
		{"half a header", good[:15], "FrameError: 15 bytes at 0 are too few for a header"},
		{"half a body", good[:17], "FrameError: package length 19 at 0 is outside 16 to 17"},
		{"no room for the header", with(3, 15), "FrameError: package length 15 at 0 is outside 16 to 19"},
		{"negative length", with(0, 0xff), "FrameError: package length 4278190099 at 0 is outside 16 to 19"},
		{"header length", with(5, 17), "FrameError: header length 17 at 0 is not 16"},
		{"behind a good one", append(slices.Clone(good), 1), "FrameError: 1 bytes at 19 are too few for a header"},
		{"a batch cut off", wire.AppendFrame(nil, wire.Frame{Ver: 1, Op: wire.OpRaw, Body: good[:18]}), "FrameError: package length 19 at 0 is outside 16 to 18"},
	} {
		if trouble, got := decode("decodeMessage", c.in); trouble != c.want {
			t.Errorf("%s: %q %v, want %q", c.name, trouble, got, c.want)
		}
	}
	b.quiet("favicon.ico") // which a browser wants for a file that is no page
}

// What the client makes of a server: each case is the body of a function that is given a
// client of that path and returns what happened.
func TestTheClientsSession(t *testing.T) {
	b, f := newClientPage(t)
	for _, c := range []struct {
		name    string
		path    string
		options string
		does    string
		want    string
		tokens  int
	}{
		{
			"from connect to close", "/sub", `mid: "9007199254740993", accepts: [1001, 1000], room: "live://1", key: "k", token: {extra: true}`,
			`await until("open"); client.close(); return log`,
			`["connecting","open","closed: closed by this client"]`, 1,
		},
		{
			"a batch arrives in order, before the answer that follows it", "/sub", ``,
			`await until("open"); client.on("message", (m) => log.push(m.op + " " + m.text));
			const { op } = await client.send(m.Op.SEND, JSON.stringify(["a", "é", ""])); return [...log, op]`,
			`["connecting","open","1000 a","1001 é","1002 ",4]`, 1,
		},
		{
			"requests are answered", "/sub", `accepts: [1]`,
			`await until("open"); await client.sub([3, 2]); await client.unsub([1, 7]); await client.changeRoom("live://2");
			return [client.accepts, client.room, await client.heartbeat(), client.online]`,
			`[[2,3],"live://2",42,42]`, 1,
		},
		{
			"heartbeats go out by themselves", "/sub", `heartbeat: 5`,
			`let n = 0; await new Promise((resolve) => client.on("online", (online) => ++n === 3 && resolve())); return [client.online]`,
			`[42]`, 1,
		},
		{"rejected is the end", "/rejected", ``, `await until("closed"); return log`, `["connecting","closed: there are enough sessions under this key (rejected)"]`, 1},
		{"replaced is the end", "/replaced", ``, `await until("closed"); return log`, `["connecting","closed: another session has taken this one's place (replaced)"]`, 1},
		{
			"drained is not", "/drained", ``,
			`await until("open"); return log`,
			`["connecting","waiting: the server is going away (drained)","connecting","open"]`, 2,
		},
		{
			"bytes that are no frame", "/junk", ``,
			`client.on("error", (err) => log.push(err.name)); await until("waiting"); await until("open"); return log`,
			`["connecting","open","FrameError","waiting: the server sent what is no frame: 4 bytes at 0 are too few for a header","connecting","open"]`, 2,
		},
		{
			"no answer to auth", "/mute", `timeout: 1000`,
			`await until("waiting"); client.close(); return log`,
			`["connecting","waiting: the server does not answer","closed: closed by this client"]`, 0,
		},
		{
			"a handler that throws harms nobody", "/sub", ``,
			`client.on("message", () => { throw new Error("mine") }); client.on("message", () => log.push("other")); client.on("error", (err) => log.push(err.message));
			await until("open"); await client.send(m.Op.SEND, '["x"]'); return log`,
			`["connecting","open","mine","other"]`, 1,
		},
		{
			"requests without a session, and after it", "/sub", ``,
			`const early = await client.sub([1]).catch((err) => err.name); await until("open");
			const cut = client.send(m.Op.SEND).catch((err) => err.message); client.close();
			return [early, await cut, await client.heartbeat().catch((err) => err.name), client.online]`,
			`["ClosedError","closed by this client","ClosedError",-1]`, 1,
		},
		{
			"a body that is too large", "/sub", ``,
			`await until("open"); return [await client.send(4, "x".repeat(4097)).catch((err) => String(err)), client.state]`,
			`["RangeError: a body of 4097 bytes: accepted are 4096","open"]`, 1,
		},
		{
			"waits grow, with jitter, up to the bound", "", `url: [], backoff: {base: 4, max: 40, factor: 2, jitter: 0.25}`,
			`const delays = []; await new Promise((resolve) => client.on("state", ({state, delay}) => state === "waiting" && delays.push(delay) === 6 && resolve()));
			return delays.map((d, i) => { const full = Math.min(40, 4 * 2 ** i); return d <= full && d >= full * 0.75 })`,
			`[true,true,true,true,true,true]`, 0,
		},
		{
			"the next of several servers is tried", "", `url: async () => [base + "/mute", base + "/sub"], timeout: 1000`,
			`await until("open"); return [client.url.split("/").pop()]`,
			`["sub"]`, 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			got := eval[string](b, fmt.Sprintf(`import("/barrage.js").then(async (m) => {
				const base = "ws://" + location.host, log = [];
				const client = new m.Client({ url: base + %q, backoff: {base: 1}, %s });
				client.on("state", ({ state, reason, code }) => log.push(state + (reason && ": " + reason) + (code && " (" + code + ")")));
				const until = (state) => client.state === state ? null : new Promise((resolve) => { const off = client.on("state", (e) => e.state === state && resolve(off())) });
				const told = (async () => { %s })();
				client.connect();
				const result = JSON.stringify(await told);
				client.close();
				return result;
			})`, c.path, c.options, c.does))
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			tokens := f.forget()
			if len(tokens) != c.tokens {
				t.Errorf("%d sessions were asked for: %q", len(tokens), tokens)
			}
			if c.name == "from connect to close" && tokens[0] != `{"mid":9007199254740993,"key":"k","room_id":"live://1","platform":"web","accepts":[1000,1001],"extra":true}` {
				t.Errorf("the token is %s", tokens[0])
			}
		})
	}
	b.t = t
	b.quiet("favicon.ico") // which a browser wants for a file that is no page
}

// Node has no WebSocket of its own before version 22: one is passed.
func TestTheClientInNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("needs node on the PATH")
	}
	f := newFakeComet(t, nil)
	script := fmt.Sprintf(`
		const WS = globalThis.WebSocket;
		delete globalThis.WebSocket;
		const { Client, Op } = await import("./page/barrage.js");
		try { new Client({ url: "" }) } catch (err) { console.log(err.message) }
		if (!WS) { console.log("no WebSocket to pass"); process.exit() }
		const client = new Client({ url: "ws://%s/sub", WebSocket: WS });
		client.on("message", (m) => console.log(m.text));
		client.on("state", async ({ state }) => {
			console.log(state);
			if (state === "open") {
				await client.send(Op.SEND, '["from node"]');
				client.close();
			}
		});
		client.connect();`, f.Listener.Addr())
	out, err := exec.Command(node, "--no-warnings", "--experimental-websocket", "--input-type=module", "-e", script).CombinedOutput()
	if err != nil {
		t.Skipf("this node can't run it: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "no WebSocket to pass") {
		t.Skip("this node has no WebSocket at all")
	}
	if want := "there is no WebSocket here: pass a class as the option WebSocket\nconnecting\nopen\nfrom node\nclosed\n"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
