package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"barrage/harness/compare"
	"barrage/harness/page/pagetest"
	"barrage/harness/profile"
	"barrage/harness/report"
)

// drawn has the pictures of harness/README.md drawn anew: make pictures
var drawn = flag.Bool("pictures", false, "draw the pictures of harness/README.md anew")

// mostPicture is how many bytes a picture may have.
const mostPicture = 200_000

// The pictures of harness/README.md are of runs that are stored here, and small.
func TestPictures(t *testing.T) {
	readme, err := os.ReadFile("harness/README.md")
	if err != nil {
		t.Fatal(err)
	}
	const room10k, room1m = "results/room-10k/20261127T182913Z", "results/room-1m/"
	// One room of a million on many comets, and on one whose shards have tables of descriptors.
	before := room1m + strings.Join([]string{"20261124T220530Z", "20261127T024511Z", "20261127T032450Z", "20261127T101153Z"}, ","+room1m)
	after := room1m + strings.Join([]string{"20261127T122043Z", "20261127T130126Z", "20261127T161530Z", "20261127T183954Z"}, ","+room1m)
	for _, p := range []struct {
		name   string
		page   func(io.Writer) error
		from   string // the heading at its upper edge, "" for the page's beginning
		height int64
	}{
		{"report.png", func(w io.Writer) error { return reportPage(w, room10k) }, "", 1300},
		{"course.png", func(w io.Writer) error { return reportPage(w, room10k) }, "Course of the run", 1240},
		{"compare.png", func(w io.Writer) error { return comparePage(w, before, after) }, "", 1300},
		{"flame.png", func(w io.Writer) error { return flamePage(w, "profiles/room-10k", "profiles/room-1m") }, "", 1000},
	} {
		t.Run(p.name, func(t *testing.T) {
			path := filepath.Join("harness", "images", p.name)
			if *drawn {
				var html bytes.Buffer
				if err := p.page(&html); err != nil {
					t.Fatal(err)
				}
				drawPage(t, path, html.Bytes(), p.from, p.height)
			}
			info, err := os.Stat(path)
			if err != nil || info.Size() > mostPicture {
				t.Errorf("%v, %v, want at most %d bytes", info, err, mostPicture)
			}
			if !bytes.Contains(readme, []byte("(images/"+p.name+")")) {
				t.Error("harness/README.md doesn't show it")
			}
		})
	}
}

func reportPage(w io.Writer, dir string) error {
	r, err := report.ReadJSON(filepath.Join(dir, "run.json"))
	if err != nil {
		return err
	}
	return report.HTML(w, r)
}

func comparePage(w io.Writer, a, b string) error {
	c, _, err := compareRuns([]string{a, b}, nil, "", false)
	if err != nil {
		return err
	}
	return compare.HTML(w, c, []string{"barrage", "compare", a, b})
}

func flamePage(w io.Writer, a, b string) error {
	var sides []*profile.Side
	for _, path := range []string{a, b} {
		runs, err := profile.Load(path)
		if err != nil {
			return err
		}
		s, err := profile.NewSide(path, runs, profile.AllProcesses, profile.CPU)
		if err != nil {
			return err
		}
		sides = append(sides, s)
	}
	return profile.WriteFlame(w, sides[0], sides[1])
}

// drawPage makes a picture of a page from a heading on.
func drawPage(t *testing.T, path string, html []byte, from string, height int64) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(file, html, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx := pagetest.Browser(t)
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1180, height), chromedp.Navigate("file://"+file)); err != nil {
		t.Fatal(err)
	}
	if from != "" {
		script := fmt.Sprintf(`[...document.querySelectorAll("h2")].find((h) => h.innerText.startsWith(%q)).scrollIntoView()`, from)
		if _, err := chromedp.Run(ctx, chromedp.Evaluate[any](script)); err != nil {
			t.Fatal(err)
		}
	}
	shot, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, paletted(picture)); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteFile(path, small.Bytes()); err != nil {
		t.Fatal(err)
	}
}

// paletted is a picture in its 256 commonest colours, which a page hardly has more of.
func paletted(picture image.Image) image.Image {
	area := picture.Bounds()
	count := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(picture.At(x, y)).(color.RGBA) }
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(count[b]-count[a], cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	var palette color.Palette
	for _, c := range colours[:min(256, len(colours))] {
		palette = append(palette, c)
	}
	out := image.NewPaletted(area, palette)
	draw.Draw(out, area, picture, area.Min, draw.Src)
	return out
}
