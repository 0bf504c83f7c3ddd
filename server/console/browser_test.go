package console

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// A browser is a tab of a headless Chromium.
type browser struct {
	t       *testing.T
	ctx     context.Context
	console chan chromedp.ConsoleMessage
	marks   int
}

// newBrowser starts Chromium. Without one the test is skipped, unless BARRAGE_CHROMIUM is
// "required"; any other value of it is the command to run.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	command := findChromium(t)
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(command), chromedp.WindowSize(1280, 960), chromedp.UserDataDir(t.TempDir()))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it has none for root
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancelAllocator)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx, console: make(chan chromedp.ConsoleMessage, 10_000)}
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", command, err)
	}
	messages := chromedp.Console(ctx)
	go func() {
		for message, err := range messages {
			if err != nil {
				return // the browser has ended
			}
			b.console <- message
		}
	}()
	return b
}

// part runs a part of a longer story, which ends if the part fails.
func (b *browser) part(name string, tell func()) {
	b.t.Helper()
	whole := b.t
	defer func() { b.t = whole }()
	if !whole.Run(name, func(t *testing.T) {
		b.t = t
		tell()
	}) {
		whole.FailNow()
	}
}

func findChromium(t *testing.T) string {
	t.Helper()
	wanted := os.Getenv("BARRAGE_CHROMIUM")
	names := []string{"chromium", "chromium-browser", "google-chrome"}
	if wanted != "" && wanted != "required" {
		names = []string{wanted}
	}
	for _, name := range names {
		if command, err := exec.LookPath(name); err == nil {
			return command
		}
	}
	if wanted != "" {
		t.Fatalf("BARRAGE_CHROMIUM is %s, but there is none of %v", wanted, names)
	}
	t.Skipf("needs a browser: none of %v is on the PATH (BARRAGE_CHROMIUM names another, or is \"required\" to fail here)", names)
	return ""
}

// quiet fails the test if the console has a warning, an error or an exception since the
// last call, other than those that have one of these texts in them.
func (b *browser) quiet(expected ...string) {
	b.t.Helper()
	b.marks++
	mark := fmt.Sprintf("mark %d", b.marks)
	eval[bool](b, fmt.Sprintf(`(console.debug(%q), true)`, mark))
	for {
		select {
		case m := <-b.console:
			if m.Text == mark {
				return
			}
			line := fmt.Sprintf("%s %s", m, m.URL)
			bad := m.Type == chromedp.ConsoleWarning || m.Type == chromedp.ConsoleError || m.IsException()
			if bad && !slices.ContainsFunc(expected, func(text string) bool { return strings.Contains(line, text) }) {
				b.t.Errorf("the browser's console says: %s", line)
			}
		case <-time.After(10 * time.Second):
			b.t.Fatal("the browser's console is silent")
		}
	}
}

// run runs an action within half a minute.
func run[T any](b *browser, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.screenshot("failed")
		b.t.Fatalf("%s: %v\nthe page:\n%s", what, err, b.pageText())
	}
	return value
}

func (b *browser) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	run(b, what, chromedp.Steps(actions...))
}

// until waits until a JavaScript expression is true.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	run(b, "wait until "+what, chromedp.Poll[bool](expression, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(25*time.Second)))
}

// eval returns a JavaScript expression's value, which may be a promise's.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	return run(b, expression, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// fill replaces a field's value, and tells the page as if a user had typed it.
func (b *browser) fill(selector, value string) {
	b.t.Helper()
	eval[bool](b, fmt.Sprintf(`(() => { const e = document.querySelector(%q); e.focus(); e.value = %q;
		return e.dispatchEvent(new InputEvent("input", {bubbles: true})) && e.dispatchEvent(new Event("change", {bubbles: true})) })()`, selector, value))
}

func (b *browser) click(selector string) {
	b.t.Helper()
	b.do("click "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// show sets the window's size and the colours that the user prefers; narrow is a phone.
func (b *browser) show(width, height int64, scheme string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	_, errMedia := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	_, errSize := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 500,
	})
	if err := errors.Join(errMedia, errSize); err != nil {
		b.t.Fatalf("show the page %d wide and %s: %v", width, scheme, err)
	}
}

func (b *browser) pageText() string {
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	if err != nil {
		return err.Error()
	}
	return text
}

// screenshot keeps a picture of the whole page in BARRAGE_SCREENSHOTS, if that is set.
func (b *browser) screenshot(name string) {
	dir := os.Getenv("BARRAGE_SCREENSHOTS")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, 15*time.Second)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Logf("screenshot %s: %v", name, err)
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		b.t.Logf("screenshot %s: %v", name, err)
	}
}
