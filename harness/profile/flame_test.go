package profile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/google/pprof/profile"

	"barrage/harness/page/pagetest"
)

// changed makes two sides' runs: in B sweep costs less, the collector more, coalesce is
// new, and copy is gone.
func changed(t *testing.T) (a, b *Side) {
	t.Helper()
	return changedRuns(t, 1)
}

// changedRuns are several runs of each, which differ a little.
func changedRuns(t *testing.T, runs int) (a, b *Side) {
	t.Helper()
	run := func(name string, sweep, gc int, others ...string) *Run {
		profiles := example(t, sweep)
		profiles["comet-1.cpu"] = build(t, CPU, tick, append([]string{
			fmt.Sprintf("runtime.goexit barrage/server/comet.(*shard).run barrage/server/comet.(*shard).sweep barrage/server/comet.(*session).send syscall.Syscall6 %d", sweep),
			"runtime.goexit barrage/server/comet.(*shard).run barrage/server/comet.(*shard).sweep +barrage/server/comet.(*log).since 90",
			fmt.Sprintf("runtime.goexit runtime.gcBgMarkWorker runtime.gcDrain %d", gc),
		}, others...)...)
		return store(t, filepath.Join(t.TempDir(), name), result(), profiles)
	}
	const above = "runtime.goexit barrage/server/comet.(*shard).run "
	var listA, listB []*Run
	for i := range runs {
		listA = append(listA, run("a", 900+i, 60+i, above+"barrage/server/comet.(*frameLog).copy 150"))
		listB = append(listB, run("b", 500+i, 210+i, above+"barrage/server/comet.(*shard).coalesce 120"))
	}
	return side(t, "A", ServerProcesses, CPU, listA...), side(t, "B", ServerProcesses, CPU, listB...)
}

// The page's data holds every node once, before its children, with costs that add up to
// those of the sides.
func TestFlameData(t *testing.T) {
	a, b := changed(t)
	for _, sides := range [][]*Side{{a}, {a, b}} {
		d := flameData(grow(sides...))
		sum := make([]float64, 2)
		for i, n := range d.Nodes {
			leafCost := []float64{float64(n[3]), 0}
			if len(sides) == 2 {
				leafCost[1] = float64(n[5])
			}
			if i == 0 {
				for s, side := range sides {
					if math.Abs(leafCost[s]-side.Runs[0].Total) > 1e-3 {
						t.Errorf("the root costs %g, the side %g", leafCost[s], side.Runs[0].Total)
					}
				}
			}
			if depth := n[0]; i > 0 && (depth < 1 || depth > d.Nodes[i-1][0]+1) {
				t.Errorf("node %d at depth %g follows one at %g", i, depth, d.Nodes[i-1][0])
			}
			// What a node costs and its children don't, added up over all, is the total.
			for s := range sum {
				sum[s] += leafCost[s]
			}
			for _, c := range d.Nodes[i+1:] {
				if c[0] <= n[0] {
					break
				}
				if c[0] == n[0]+1 {
					sum[0] -= float64(c[3])
					if len(sides) == 2 {
						sum[1] -= float64(c[5])
					}
				}
			}
		}
		for s, side := range sides {
			if math.Abs(sum[s]-side.Runs[0].Total) > 1e-2 {
				t.Errorf("side %d: all nodes by themselves cost %g of %g", s, sum[s], side.Runs[0].Total)
			}
		}
	}
}

// What the run says, names too, can't break out of the page's data.
func TestFlameEscapes(t *testing.T) {
	r := store(t, t.TempDir(), result(), map[string]*profile.Profile{"comet-1.cpu": build(t, CPU, tick, "main.main </script><script>alert(1)</script> 10")})
	var b bytes.Buffer
	if err := WriteFlame(&b, side(t, "</title><script>alert(2)</script>", "comet-1", CPU, r), nil); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "</script>"); n != 2 {
		t.Errorf("the page ends %d scripts, want 2", n)
	}
	if strings.Contains(b.String(), "<script>alert") {
		t.Error("a name became a script")
	}
	data := regexp.MustCompile(`(?s)<script type="application/json" id="data">(.*?)</script>`).FindSubmatch(b.Bytes())
	if data == nil || !json.Valid(data[1]) {
		t.Error("the page's data is no JSON")
	}
}

// browser opens Chromium without a window. Errors of the page, and anything that it fetches,
// fail the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	exe := pagetest.Chromium(t)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(exe), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var wrong []string
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, text := range wrong {
			t.Error(text)
		}
	})
	err := chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			wrong = append(wrong, fmt.Sprintf("the page throws: %+v", e.ExceptionDetails))
		case *runtime.EventConsoleAPICalled:
			wrong = append(wrong, fmt.Sprintf("the page writes to the console: %s", e.Type))
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, "file:") && !strings.HasPrefix(e.Request.URL, "data:") {
				wrong = append(wrong, "the page fetches "+e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatalf("start %s: %v", exe, err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// A tester drives one open page.
type tester struct {
	*testing.T
	ctx context.Context
}

func (p tester) do(actions ...chromedp.Action[chromedp.Void]) {
	p.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		p.Fatal(err)
	}
}

// open writes the sides' page and opens it in a window of that size.
func (p tester) open(a, b *Side, width, height int64) {
	p.Helper()
	path := filepath.Join(p.TempDir(), "flame.html")
	var page bytes.Buffer
	if err := WriteFlame(&page, a, b); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, page.Bytes(), 0o644); err != nil {
		p.Fatal(err)
	}
	p.do(chromedp.EmulateViewport(width, height), chromedp.Navigate((&url.URL{Scheme: "file", Path: path}).String()), chromedp.WaitReady(chromedp.ID("graph")))
}

// eval returns what JavaScript says.
func eval[T any](p tester, script string) T {
	p.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](script))
	if err != nil {
		p.Fatalf("%s: %v", script, err)
	}
	return v
}

func (p tester) text(id string) string {
	p.Helper()
	return eval[string](p, fmt.Sprintf("document.getElementById(%q).innerText", id))
}

func (p tester) wantText(id, want string) {
	p.Helper()
	if got := p.text(id); !strings.Contains(got, want) {
		p.Errorf("#%s says %q, want %q in it", id, got, want)
	}
}

// row returns the middle of a row of the graph, at a part of its width, in the window.
func (p tester) row(depth int, part float64) (x, y float64) {
	p.Helper()
	r := eval[[]float64](p, "(() => { const r = document.getElementById('graph').getBoundingClientRect(); return [r.left, r.top, r.width] })()")
	return r[0] + part*r[2], r[1] + (float64(depth)+0.5)*21
}

// seen says whether a colour of the style sheet is on the graph.
func (p tester) seen(variable string) bool {
	p.Helper()
	return eval[bool](p, fmt.Sprintf(`(() => {
		const hex = getComputedStyle(document.documentElement).getPropertyValue("--%s").trim();
		const want = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
		const c = document.getElementById("graph"), d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
		for (let i = 0; i < d.length; i += 4) if (want.every((v, k) => d[i + k] === v)) return true;
		return false;
	})()`, variable))
}

// search writes into the search field, anew, as a user does.
func (p tester) search(text string) {
	p.Helper()
	eval[bool](p, `(() => { const s = document.getElementById("search"); s.value = ""; s.focus(); return true })()`)
	p.do(chromedp.KeyEvent(text))
}

// shot leaves a picture where -shots says so.
func (p tester) shot(name string) {
	p.Helper()
	pagetest.Keep(p.T, name, func() ([]byte, error) { return chromedp.Run(p.ctx, chromedp.CaptureScreenshot()) })
}

// colour is what the first box that a search finds is filled with: the search marks its lower
// edge, and the colour is that above the mark.
func (p tester) colour(text string) (c rgb) {
	p.Helper()
	p.search(text)
	pixel := eval[[]int](p, `(() => {
		const hex = getComputedStyle(document.documentElement).getPropertyValue("--match").trim();
		const want = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
		const c = document.getElementById("graph"), all = c.getContext("2d"), d = all.getImageData(0, 0, c.width, c.height).data;
		for (let i = 0; i < d.length; i += 4)
			if (want.every((v, k) => d[i + k] === v)) return [...all.getImageData((i / 4) % c.width + 1, Math.floor(i / 4 / c.width) - 15, 1, 1).data];
		return [];
	})()`)
	if len(pixel) == 0 {
		p.Errorf("a search for %q marks nothing", text)
		return rgb{}
	}
	return rgb{pixel[0], pixel[1], pixel[2]}
}

type rgb [3]int

// tint is the colour's name where one clearly is more than the others.
func (c rgb) tint() string {
	const clearly = 40
	for i, name := range []string{"red", "green", "blue"} {
		if c[i] >= c[(i+1)%3]+clearly && c[i] >= c[(i+2)%3]+clearly {
			return name
		}
	}
	return "none"
}

// The graph of one side: zoom by click and keyboard, the ways back, search and tips.
func TestFlamePage(t *testing.T) {
	p := tester{t, browser(t)}
	a, _ := changed(t)
	p.open(a, nil, 1280, 900)
	total := a.Runs[0].Total
	p.wantText("summary", "cpu: "+digits(total)+" ns a delivery ±")
	p.wantText("legend", "barrage")
	p.shot("one")

	// The first row is all, below it are the roles, comet the dearest and so the first.
	x, y := p.row(1, 0.3)
	p.do(chromedp.MouseEvent("mouseMoved", x, y))
	p.wantText("tip", "comet")
	comet := a.Runs[0].Total
	for _, name := range []string{"job", "logic"} {
		comet -= side(t, name, name, CPU, a.Runs[0].Run).Runs[0].Total
	}
	p.wantText("tip", "ns a delivery\t"+digits(comet))
	p.wantText("tip", "samples\t2,240")
	p.wantText("tip", percent(comet, total))

	p.do(chromedp.MouseClickXY(x, y))
	p.wantText("path", "comet, "+percent(comet, total)+" of all")
	x, y = p.row(3, 0.2)
	p.do(chromedp.MouseClickXY(x, y))
	p.wantText("path", "comet.(*shard).run, ")
	p.shot("one-zoomed")
	p.do(chromedp.Click(chromedp.ID("back")))
	p.wantText("path", "comet, ")
	p.do(chromedp.KeyEvent(kb.Escape))
	if zoomed := eval[bool](p, "!document.getElementById('path').classList.contains('whole')"); zoomed {
		t.Error("Escape does not show the whole")
	}

	// The keyboard goes the same ways.
	p.do(chromedp.Focus(chromedp.ID("graph")), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowDown))
	p.wantText("said", "comet: ")
	p.do(chromedp.KeyEvent(kb.ArrowRight))
	p.wantText("said", "job: ")
	p.do(chromedp.KeyEvent(kb.Enter))
	p.wantText("path", "job, ")
	p.do(chromedp.KeyEvent(kb.Backspace))
	if back := eval[bool](p, "document.getElementById('path').classList.contains('whole')"); !back {
		t.Error("Backspace does not go back")
	}

	// All that is matched counts once: send and its callee are one.
	send := 0.0
	for _, row := range Top(a, ByCum).Rows {
		if row.Function == "barrage/server/comet.(*session).send" {
			send = row.Cum.Value
		}
	}
	p.do(chromedp.KeyEvent("/"))
	if focus := eval[string](p, "document.activeElement.id"); focus != "search" {
		t.Errorf("the focus is on %q, not on the search", focus)
	}
	p.search("session|syscall6")
	unix := 8 * tick / 2e6
	p.wantText("matched", fmt.Sprintf("matched %s (%s ns)", percent(send+unix, total), digits(send+unix)))
	p.shot("one-searched")
	p.do(chromedp.KeyEvent(kb.Enter))
	p.wantText("said", "comet.(*session).send")
	p.do(chromedp.KeyEvent(kb.Escape))
	p.wantText("matched", "")
	p.search("(*shard).sweep") // which is no pattern
	p.wantText("matched", "matched ")
	p.search("nowhere")
	p.wantText("matched", "no match")
}

// The graph of a difference: colours of what is more, less, new and gone, by either side's
// widths.
func TestFlamePageOfADifference(t *testing.T) {
	p := tester{t, browser(t)}
	a, b := changed(t)
	p.open(a, b, 1280, 900)
	p.wantText("summary", "cpu: A "+digits(a.Runs[0].Total)+", B "+digits(b.Runs[0].Total)+" ns a delivery: -")
	p.wantText("method", "One run of a side can't tell noise from change.")
	p.shot("difference")

	if !p.seen("new") {
		t.Error("what is new is not seen")
	}
	if p.seen("gone") {
		t.Error("what is gone is seen by widths of B")
	}
	p.do(chromedp.Click(chromedp.ID("by-a")))
	if !p.seen("gone") || p.seen("new") {
		t.Error("by widths of A what is gone is not seen, or what is new is")
	}
	p.do(chromedp.Click(chromedp.ID("by-b")))
	p.search("coalesce")
	p.do(chromedp.KeyEvent(kb.Enter))
	p.wantText("said", "new: +600 ±")
	p.do(chromedp.Click(chromedp.ID("by-a")))
	p.search("frameLog")
	p.do(chromedp.KeyEvent(kb.Enter))
	p.wantText("said", "gone: -750 ±")
	p.wantText("matched", "matched "+percent(750, a.Runs[0].Total)+" of A (750 ns), 0.0% of B (0 ns)")
	p.shot("difference-by-a")
	p.do(chromedp.Click(chromedp.ID("by-b")))
	p.search("gcDrain")
	p.do(chromedp.KeyEvent(kb.Enter))
	p.wantText("said", "A 450, B 1,200 ns a delivery, +750 ±")
	p.wantText("tip", "+750 ±")
	p.search("Invoke")
	p.do(chromedp.KeyEvent(kb.Enter))
	p.wantText("said", "no difference that 2 runs can show")
}

// What is more is red and what is less is blue, in the light and in the dark, of one run a side
// and of several; what is the same has no tint.
func TestFlameColours(t *testing.T) {
	p := tester{t, browser(t)}
	for _, runs := range []int{1, 4} {
		a, b := changedRuns(t, runs)
		for _, scheme := range []string{"light", "dark"} {
			features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
			if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
				t.Fatal(err)
			}
			p.open(a, b, 1280, 900)
			p.shot(fmt.Sprintf("colours-%d-%s", runs, scheme))
			for text, want := range map[string]string{"gcDrain": "red", "(*session).send": "blue", "Invoke": "none"} {
				for _, widths := range []string{"by-a", "by-b"} {
					p.do(chromedp.Click(chromedp.ID(widths)))
					if c := p.colour(text); c.tint() != want {
						t.Errorf("%d runs, %s, widths %s: %s is %v, %s, want %s", runs, scheme, widths, text, c, c.tint(), want)
					}
				}
			}
		}
	}
}

// The page fits a phone, and has dark colours for who wants them.
func TestFlamePageOnAPhoneAndInTheDark(t *testing.T) {
	p := tester{t, browser(t)}
	a, b := changed(t)
	p.open(a, b, 390, 844)
	if over := eval[int](p, "document.documentElement.scrollWidth - window.innerWidth"); over > 0 {
		t.Errorf("the page is %d px wider than the window", over)
	}
	p.shot("phone")
	light := eval[string](p, "getComputedStyle(document.body).backgroundColor")
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		t.Fatal(err)
	}
	if dark := eval[string](p, "getComputedStyle(document.body).backgroundColor"); dark == light {
		t.Errorf("the page is as light in the dark: %s", dark)
	}
	x, y := p.row(3, 0.3)
	p.do(chromedp.MouseEvent("mouseMoved", x, y))
	p.shot("phone-dark")
	p.do(chromedp.EmulateViewport(1280, 900))
	p.shot("dark")
	p.open(a, nil, 1280, 900)
	p.shot("one-dark")
}
