package console

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// shown is an expression that is true when the list has a message with this text, whose
// row matches pattern as a whole.
func shown(text, pattern string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#messages li")].some((li) => li.querySelector(".text").textContent === %q && /%s/.test(li.innerText))`, text, pattern)
}

const connected = `document.querySelector("#status").dataset.state === "open"`

// A user's way through the page, in a real browser with real processes behind it.
func TestThePageInABrowser(t *testing.T) {
	b := newBrowser(t)
	c := startCluster(t)
	page := serveConsole(t, DefaultConfig(), Deps{
		Log: slog.New(slog.DiscardHandler),
		API: func() string { return c.api }, WebSocket: func() string { return c.webSocket },
	})
	b.do("open the page", chromedp.Navigate(page.pageURL()))
	b.until("the page shows the cluster", `document.querySelector("#totals").textContent.includes("0 connections from 0 addresses")`)
	b.screenshot("1-opened")

	if nameless := eval[[]string](b, `[...document.querySelectorAll("input, select, textarea, button")]
		.filter((e) => !e.labels?.length && !e.ariaLabel && !e.textContent.trim()).map((e) => e.outerHTML)`); len(nameless) > 0 {
		t.Errorf("without a name for a screen reader: %q", nameless)
	}

	b.do("connect with the keyboard", chromedp.SendKeys(chromedp.CSS(`#connect-form [name=room]`), "\n"))
	b.until("connected", connected)
	b.until("the room has one member", `document.querySelector("#online").textContent === "1"`)
	b.until("the cluster's largest room is listed", `document.querySelector("#rooms").textContent.includes("live://10001")`)

	b.part("push from the form", func() {
		b.click("#push")
		b.until("the push arrives with its latency", shown("Hello from this page", `1000[^]*live:\/\/1000[^]*ms`))
		b.until("the API's answer is shown", `document.querySelector("#answer").textContent.startsWith('200 {"code":0,"message":""} in ')`)
		latency := eval[string](b, `document.querySelector("#messages .latency").textContent`)
		if ms, err := strconv.ParseFloat(strings.TrimSuffix(latency, " ms"), 64); err != nil || ms <= 0 || ms > 10_000 {
			b.t.Errorf("the latency is %q", latency)
		}
		b.until("the figures have it", `/^\d/.test(document.querySelector("#p50").textContent) && document.querySelector("#received").textContent === "1"`)
		b.until("a screen reader is told", `document.querySelector("#spoken").textContent === "1 new message, the newest: Hello from this page"`)
	})

	b.part("text and bytes as they are", func() {
		c.push("room?operation=1&type=live&room=1000", "<img src=x onerror=alert(1)>")
		b.until("markup is text", shown("<img src=x onerror=alert(1)>", `^`))
		c.push("room?operation=1000&type=live&room=1000", "\xff\x00\x01")
		b.until("bytes are shown", shown("ff 00 01", `19 B`))
		c.push("room?operation=1000&type=live&room=1000", `{"t":"soon","text":7}`)
		b.until("other JSON is shown as it is", shown(`{"t":"soon","text":7}`, `^`))
	})

	b.part("change the room", func() {
		b.fill("#room-input", "live://2000")
		b.click("#room-form button")
		b.until("in the new room", `document.querySelector("#online-room").textContent === "live://2000"`)
		c.push("room?operation=1000&type=live&room=1000", "to the old room")
		c.push("room?operation=1000&type=live&room=2000", "to the new room")
		b.until("the push to the new room arrives", shown("to the new room", `^`))
		if eval[bool](b, shown("to the old room", `^`)) {
			b.t.Error("a push to the old room arrived")
		}
		b.click("#leave-room")
		b.until("in no room", `document.querySelector("#online-room").textContent === "" && document.querySelector("#online").textContent === "–"`)
		b.fill("#room-input", "live://2000")
		b.click("#room-form button")
		b.until("in the room again", `document.querySelector("#online").textContent === "1"`)
	})

	b.part("a busy room is listed in order, and no longer than agreed", func() {
		before := eval[int](b, `Number(document.querySelector("#received").textContent)`)
		for i := range 250 {
			c.push("room?operation=1000&type=live&room=2000", fmt.Sprint(i))
		}
		b.until("all have arrived", fmt.Sprintf(`document.querySelector("#received").textContent === "%d"`, before+250))
		listed := eval[[]string](b, `[...document.querySelectorAll("#messages .text")].map((e) => e.textContent)`)
		if len(listed) != 200 {
			b.t.Errorf("%d messages are listed", len(listed))
		}
		for i, text := range listed {
			if text != fmt.Sprint(249-i) {
				b.t.Fatalf("message %d of the list is %s", i, text)
			}
		}
		b.click("#pause")
		c.push("room?operation=1000&type=live&room=2000", "while paused")
		b.until("it is counted", fmt.Sprintf(`document.querySelector("#received").textContent === "%d"`, before+251))
		if eval[bool](b, shown("while paused", `^`)) {
			b.t.Error("it is listed while the list is paused")
		}
		b.click("#pause")
		b.click("#clear")
		b.until("the list is empty", `!document.querySelector("#messages li") && !document.querySelector("#empty").hidden`)
	})

	b.part("subscriptions", func() {
		b.click(`#subs button[aria-label="Unsubscribe from 1000"]`)
		b.until("unsubscribed", `document.querySelectorAll("#subs li").length === 1`)
		b.fill("#sub-input", "1002, 1003")
		b.click("#sub-form .joined button")
		b.until("subscribed", `[...document.querySelectorAll("#subs li")].map((li) => li.firstChild.data).join() === "1001,1002,1003"`)
		c.push("all?operation=1000", "not wanted")
		c.push("all?operation=1003", "wanted")
		b.until("the operation subscribed to arrives", shown("wanted", `1003`))
		if eval[bool](b, shown("not wanted", `^`)) {
			b.t.Error("the other arrived as well")
		}
	})

	b.part("push to keys, members and everyone", func() {
		b.fill(`#push-form [name=operation]`, "1002")
		b.click(`#push-form [value=keys]`)
		b.fill(`#push-form [name=text]`, "to my key")
		b.click("#push")
		b.until("the push to the key arrives", shown("to my key", `1002`))
		b.click(`#push-form [value=all]`)
		b.fill(`#push-form [name=text]`, "to 'all' & sundry")
		if curl := eval[string](b, `document.querySelector("#curl").textContent`); curl == "" {
			b.t.Error("no curl command")
		}
		b.click("#push")
		b.until("the push to everyone arrives", shown("to 'all' & sundry", `1002`))
		b.click(`#push-form [value=mids]`)
		b.fill(`#push-form [name=mids]`, "7")
		b.click("#push")
		b.until("nobody is member 7", `document.querySelector("#answer").textContent.startsWith('200 {"code":0')`)
		b.click(`#push-form [value=room]`)
	})
	b.quiet()

	b.part("reconnect after comet restarts", func() {
		c.comet.stop()
		b.until("the page says so", `document.querySelector("#status-text").textContent.startsWith("Reconnecting")`)
		b.until("and why", `document.querySelector("#session-trouble").textContent.endsWith("Trying again.")`)
		c.startComet()
		b.until("connected again", connected)
		c.push("room?operation=1000&type=live&room=2000", "after the restart")
		b.until("a push to the room arrives", shown("after the restart", `^`))
		c.push("all?operation=1003", "subscribed still")
		b.until("subscriptions are kept", shown("subscribed still", `1003`))
		b.quiet("WebSocket connection to")
	})

	b.part("another session takes the key", func() {
		eval[bool](b, `import("/barrage.js").then(({ Client }) => {
			window.other = new Client({ url: document.querySelector("#fact-url").textContent, key: document.querySelector("#fact-key").textContent });
			other.connect();
			return true;
		})`)
		b.until("the page says so", `document.querySelector("#session-trouble").textContent === "Another session has taken this one's place."`)
		b.until("and stays away", `document.querySelector("#status").dataset.state === "closed" && other.state === "open"`)
		eval[bool](b, `(other.close(), true)`)
		b.quiet()
	})

	b.part("a reload comes back to the room", func() {
		b.do("reload", chromedp.Reload())
		b.until("connected", connected)
		b.until("in the room", `document.querySelector("#online-room").textContent === "live://2000"`)
	})

	b.part("connect to a node that logic proposes", func() {
		b.do("open logic's own page", chromedp.Navigate(c.logic.find(`demo page".*url=(http\S+)`)+"/#room=live://3000"))
		b.until("connected", connected)
		if url := eval[string](b, `document.querySelector("#fact-url").textContent`); url != "ws://"+c.webSocket+"/sub" {
			b.t.Errorf("connected to %s", url)
		}
		b.click("#disconnect")
		b.until("disconnected", `document.querySelector("#status").dataset.state === "closed" && document.activeElement.id === "connect"`)
		b.do("back to the page", chromedp.Navigate(page.pageURL()+"#room=live://2000"))
		b.until("connected", connected)
		b.quiet()
	})

	b.part("repeated pushes", func() {
		b.fill(`#push-form [name=repeat]`, "50")
		b.click("#push")
		b.until("the rate is shown", `Number(document.querySelector("#rate").textContent) > 5`)
		b.until("the line is drawn", `document.querySelector("#latency-spark .line").getAttribute("d").includes("L")`)
	})
	pictures(b)
	b.click("#push")
	b.until("stopped", `document.querySelector("#push").textContent === "Push"`)
	b.quiet()

	b.part("without logic", func() {
		c.logic.stop()
		b.fill(`#push-form [name=repeat]`, "0")
		b.click("#push")
		b.until("the page says that the push API is away", `document.querySelector("#answer").textContent.includes("the push API at `+c.api+` does not answer")`)
		b.until("so does the cluster's part", `document.querySelector("#cluster-trouble").textContent.includes("does not answer")`)
		b.screenshot("8-no-logic")
		b.quiet("502 (Bad Gateway)")
	})

	b.part("what up prints is the same page", func() {
		args := []string{"up", "-demo=127.0.0.1:0"}
		for _, setting := range []string{
			"comet.tcp.bind", "comet.websocket.bind", "comet.rpcServer.addr", "comet.admin.addr", "job.admin.addr",
			"logic.httpServer.addr", "logic.rpcServer.addr", "logic.admin.addr", "services.discovery.addr", "services.admin.addr",
		} {
			args = append(args, "-"+setting+"=127.0.0.1:0")
		}
		up := c.launch(args...)
		b.do("open the page", chromedp.Navigate(up.find(`(?m)^ +page +(http\S+)`)))
		b.click("#connect")
		b.until("connected", connected)
		b.click("#push")
		b.until("the push arrives with its latency", shown("Hello from this page", `1000[^]*live:\/\/1000[^]*ms`))
		b.quiet("502 (Bad Gateway)") // the last of the page before
	})
}

// pictures looks at the page in light and dark, wide and narrow: nothing may stick out.
func pictures(b *browser) {
	if os.Getenv("BARRAGE_SCREENSHOTS") != "" { // whoever looks at them wants to see a line
		b.until("there is some history", `document.querySelector("#rate-spark .line").getAttribute("d").split("L").length > 20`)
	}
	for _, width := range []int64{1280, 1000, 760, 390, 320} {
		for _, scheme := range []string{"light", "dark"} {
			b.show(width, 900, scheme)
			if over := eval[int64](b, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
				b.t.Errorf("at a width of %d the page is %d wider", width, over)
			}
			b.screenshot(fmt.Sprintf("5-%d-%s", width, scheme))
		}
		for _, hint := range []string{"latency-hint", "stamp-hint"} {
			out := eval[string](b, fmt.Sprintf(`(() => {
				const bubble = document.getElementById(%q);
				bubble.parentElement.scrollIntoView({ block: "center" });
				bubble.previousElementSibling.focus();
				const { left, right, top, bottom } = bubble.getBoundingClientRect();
				const style = getComputedStyle(bubble);
				return style.visibility === "visible" && left >= 0 && right <= innerWidth && top >= 0 && bottom <= innerHeight ? "" : JSON.stringify({ left, right, top, bottom, v: style.visibility });
			})()`, hint))
			if out != "" {
				b.t.Errorf("at a width of %d the %s is not to be seen as a whole: %s", width, hint, out)
			}
			b.screenshot(fmt.Sprintf("6-%d-%s", width, hint))
		}
	}
	b.show(1280, 960, "light")
}
