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

// Browser starts Chromium, or skips the test where there is none.
func Browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("needs a browser: neither chromium nor google-chrome is on the PATH")
	}
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
			shot(ctx, t, fmt.Sprintf("%s-%d-%s", t.Name(), width, scheme))
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

func shot(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	if *shots == "" {
		return
	}
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*shots, name+".png"), picture, 0o644); err != nil {
		t.Fatal(err)
	}
}
