// SPDX-License-Identifier: MIT
// What models may say, for the page's tests.
export const RICH = `Here is a **binary search** in Python.

\`\`\`python
def search(items: list[int], wanted: int) -> int | None:
    """Index of \`wanted\` in the sorted \`items\`, or None."""
    low, high = 0, len(items)
    while low < high:
        middle = (low + high) // 2
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(items) and items[low] == wanted else None
\`\`\`

| items | looks |
|:------|------:|
| 1,000 | 10 |
| 1,000,000 | 20 |

> It needs about \`log2(n)\` looks.

3. The items must be *sorted*.
4. See [the article](https://example.org/search).
`;

export const HOSTILE = `<img src="https://evil.example/a.png" onerror="window.hit = 1"> <script>window.hit = 2</script>

![pixel](https://evil.example/pixel.png) [run](javascript:window.hit=3) [data](data:text/html,x)

<style>body { display: none }</style> <iframe src="https://evil.example/"></iframe>

[a](https://evil.example/ "x\\" onmouseover=\\"window.hit=4")

<javascript:window.hit=7> [ref][x] [JaVaScRiPt](JaVaScRiPt:window.hit=8) [tab](java&#9;script:window.hit=9)
[vb](vbscript:window.hit=10) [file](file:///etc/passwd) [blob](blob:https://evil.example/1) [rel](/v1/models) [who](//evil.example/)

[x]: javascript:window.hit=11 "title"

![svg](data:image/svg+xml;base64,PHN2Zy8+) ![" onerror="window.hit=12](https://evil.example/b.png "onload=window.hit=13")

<svg><style><img src=x onerror=window.hit=14></style></svg> <math><mtext><table><mglyph><style><img src=x onerror=window.hit=15>
<form action="https://evil.example/"><input name=q></form> <base href="https://evil.example/"> <meta http-equiv="refresh" content="0;url=https://evil.example/">

| <img src=x onerror=window.hit=16> | b |
|---|---|
| [c](javascript:window.hit=17) | <a href="javascript:window.hit=18">d</a> |

\`\`\`"><img src=x onerror=window.hit=5>
</code></pre><script>window.hit = 6</script>
\`\`\`
`;


/** Right to left, with what stays left to right inside. */
export const HEBREW = `שלום, זה *מבחן*.

- ראשון
- שני

> ציטוט

\`\`\`c
int main(void) { return 0; }
\`\`\`

An English paragraph.
`;

/** Where the half of a line means something else than the whole, and where a later line changes an earlier block. */
export const TRICKY = `A [link] that is defined later, one that is [known][k].

[k]: https://example.org/known

1. first

2. second
   - inner

     its second paragraph

10. tenth
* another list
*emphasis* in it

Title
=====

| a | b |
|---|--:|
| 1 | 2 |

***

- [known]: [k]
-

  \`\`\`js
  const a = 1;

  // two
  \`\`\`

after

    indented code

    more of it

~~~
[link]: https://example.org/not-a-definition
~~~

> quote
lazy

> another

[k]: https://example.org/too-late
# Head #
Setext
---
The end, see [k].
`;
