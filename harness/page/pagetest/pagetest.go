// Package pagetest looks at a page in headless Chromium, for tests.
package pagetest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// Chromium returns the browser's command. Where there is none the test is skipped, unless the
// environment's BARRAGE_CHROMIUM is "required"; any other value of it is the command.
func Chromium(t *testing.T) string {
	t.Helper()
	wanted := os.Getenv("BARRAGE_CHROMIUM")
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}
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

// Browser starts Chromium, or does without the test as Chromium says.
func Browser(t *testing.T) context.Context {
	t.Helper()
	path := Chromium(t)
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox)
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stopAllocator)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Whole fails the test unless a page is whole at a desktop's and a phone's width, light and
// dark: nothing is wider than the window, and script, which is JavaScript, returns want.
func Whole(t *testing.T, html []byte, script, want string) {
	t.Helper()
	ctx := Browser(t)
	file := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(file, html, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.Navigate("file://"+file)); err != nil {
		t.Fatal(err)
	}
	for _, width := range []int64{1280, 390} {
		for _, scheme := range []string{"light", "dark"} {
			if err := look(ctx, width, scheme); err != nil {
				t.Fatal(err)
			}
			Keep(t, fmt.Sprintf("%s-%d-%s", t.Name(), width, scheme), func() ([]byte, error) { return chromedp.Run(ctx, chromedp.FullScreenshot(100)) })
			got, err := chromedp.Run(ctx, chromedp.Evaluate[string](`[
				document.scrollingElement.scrollWidth > innerWidth ? "too wide" : "fits",
				[...document.querySelectorAll("figure > svg path.line")].filter(p => p.getTotalLength() < 50).length + " empty lines",
				getComputedStyle(document.body).backgroundColor, `+script+`].join("; ")`))
			ground := map[string]string{"light": "rgb(251, 251, 250)", "dark": "rgb(20, 24, 27)"}[scheme]
			if want := "fits; 0 empty lines; " + ground + "; " + want; err != nil || got != want {
				t.Errorf("width %d, %s: %s, %v, want %s", width, scheme, got, err, want)
			}
		}
	}
}

func look(ctx context.Context, width int64, scheme string) error {
	_, errMedia := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	_, errSize := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: 900, DeviceScaleFactor: 1, Mobile: width < 500})
	return errors.Join(errMedia, errSize)
}

var shots = flag.String("shots", "", "keep pictures of the pages that tests look at in this `folder`")

// Keep puts the picture that take makes, a PNG, into the folder that the flag -shots names.
// Without the flag it does nothing.
func Keep(t *testing.T, name string, take func() ([]byte, error)) {
	t.Helper()
	if *shots == "" {
		return
	}
	picture, err := take()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*shots, name+".png"), picture, 0o644); err != nil {
		t.Fatal(err)
	}
}
