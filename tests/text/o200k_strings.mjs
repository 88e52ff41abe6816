// SPDX-License-Identifier: MIT
// The texts on which td_encode is compared: the same on every run. Letters newer than Unicode 14
// are left out, since PCRE2 and the compared package may disagree on what they are.

// Two sentences for each of 42 languages.
const LANGUAGES = {
  english: ["The kettle whistled twice before anyone noticed.", "They've said it's John's turn, and we'll see what he'd do."],
  german: ["Der Zug nach Köln fährt heute von Gleis sieben.", "Größere Straßen führen über die Brücke zum Rathausplatz."],
  french: ["L'été dernier, nous avons traversé la forêt à pied.", "Où est-ce que tu as laissé mes clés, là-bas ou ici ?"],
  spanish: ["¿Cuántos años tiene el señor que vende naranjas?", "Mañana saldré temprano; ¡no me esperes despierto!"],
  portuguese: ["A menina não quis comer o pão com manteiga.", "Amanhã de manhã vamos à praia com os avós."],
  italian: ["Perché non c'è più nessuno alla fermata dell'autobus?", "La città dorme già, però il caffè è ancora aperto."],
  dutch: ["De kinderen fietsen elke ochtend langs de vaart.", "Zo'n regenachtige dag had ik 's ochtends niet verwacht."],
  swedish: ["Åskan gick hela natten över sjön.", "Vi åt ärtsoppa och pannkakor på torsdagen."],
  norwegian: ["Bølgene slår mot brygga når det blåser opp.", "Ungene gikk på ski før frokost i går."],
  danish: ["Røde æbler ligger på bordet ved døren.", "Hun kørte hjem gennem den våde skov."],
  finnish: ["Järven rannalla seisoi vanha, hiljainen myllyrakennus.", "Työntekijät söivät lounasta pöydän ääressä."],
  icelandic: ["Það snjóaði í fjöllunum alla nóttina.", "Börnin léku sér við ána þar til kvöldaði."],
  polish: ["Chrząszcz wędrował źdźbłem wysokiej trawy.", "Wczoraj późno wróciliśmy z gór do Łodzi."],
  czech: ["Příliš dlouhá řeka teče kolem našeho městečka.", "Ve čtvrtek přišel dědeček s košíkem hříbků."],
  slovak: ["Ľahký vánok rozkýval konáre starej čerešne.", "Naše dievčatá tancovali až do neskorého večera."],
  hungarian: ["Az öreg tölgyfa árnyékában hűvös volt délután.", "Megszentségteleníthetetlenségeskedéseitekért hosszú szó."],
  romanian: ["Și țăranii așteptau ploaia de trei săptămâni.", "Întâlnirea a început după ora șapte seara."],
  croatian: ["Đak je čitao knjigu pod žutom svjetiljkom.", "Šuma šapuće kad vjetar prođe kroz lišće."],
  slovenian: ["Čebele so že zgodaj priletele na češnjev cvet.", "Žaba je skočila v globok, miren ribnik."],
  lithuanian: ["Ąžuolas prie kelio stovėjo šimtą metų.", "Vaikai žaidė kieme, kol sutemo."],
  latvian: ["Žagata ielidoja dārzā un nozaga ķiršus.", "Šodien jūra ir mierīga un ļoti auksta."],
  estonian: ["Õunapuu õitses akna all terve nädala.", "Öösel jäi küla täiesti vaikseks."],
  turkish: ["İstanbul'da yağmur yağıyordu, ışıklar ıslak taşta parlıyordu.", "Çocuklar bahçede ağaçların gölgesinde oturdu."],
  vietnamese: ["Buổi sáng, bà tôi thường uống trà nóng ngoài hiên.", "Những chiếc thuyền nhỏ trở về bến khi trời tối."],
  indonesian: ["Kupu-kupu itu hinggap di atas daun pisang.", "Mereka berjalan-jalan di pasar sampai malam."],
  swahili: ["Mvua ilinyesha usiku kucha kijijini kwetu.", "Watoto walicheza mpira karibu na mto."],
  russian: ["Старый трамвай медленно поднимался в гору.", "Ёжик нёс яблоко через весь тёмный лес."],
  ukrainian: ["Їжак заліз під ґанок і заснув до весни.", "Щодня вона носила воду з криниці."],
  bulgarian: ["Щъркелът се върна на комина през март.", "Къщата край реката беше боядисана в синьо."],
  greek: ["Ο γέρος ψαράς άφησε τα δίχτυα του στην αμμουδιά.", "Πού πήγαν όλοι οι φίλοι μας απόψε;"],
  armenian: ["Գետի ափին մի մեծ ընկուզենի կար։", "Երեխաները վազեցին դեպի դպրոց։"],
  georgian: ["ძველი ხიდი მდინარეზე ისევ დგას.", "დილით ბაზარში ახალი პური იყო."],
  hebrew: ["הרכבת האחרונה יצאה מהתחנה לפני חצות.", "שָׁלוֹם לְכָל הַיְלָדִים בַּגִּנָּה."],
  arabic: ["وصلت السفينة إلى الميناء عند الفجر.", "كِتَابٌ قَدِيمٌ عَلَى الطَّاوِلَةِ، أليس كذلك؟"],
  persian: ["پیرمرد هر روز به باغ می‌رفت و گل‌ها را آب می‌داد.", "آیا چای گرم دوست داری؟"],
  urdu: ["بارش کے بعد گلی میں پانی بھر گیا۔", "کل ہم سب ندی کے کنارے جائیں گے۔"],
  hindi: ["पुराने बरगद के नीचे गाँव के लोग बैठते थे।", "क्या तुम्हारे पास मेरी किताब की चाबी है?"],
  bengali: ["নদীর ধারে ছোট্ট একটি নৌকা বাঁধা ছিল।", "বৃষ্টিতে ভিজে আমরা বাড়ি ফিরলাম।"],
  tamil: ["மழை பெய்தபோது குழந்தைகள் திண்ணையில் அமர்ந்தார்கள்.", "யாழ்ப்பாணத்தில் மாம்பழம் இனிப்பாக இருக்கும்."],
  thai: ["แมวสีส้มนอนหลับอยู่บนหลังคาบ้าน", "พรุ่งนี้เราจะไปตลาดน้ำแต่เช้าตรู่นะครับ"],
  chinese: ["清晨的雾气慢慢从湖面上散去。", "他把钥匙忘在了图书馆三楼的桌子上，对吗？"],
  japanese: ["駅前のパン屋さんは、朝六時に開きます。", "「ちょっと待って！」と彼女はトンネルの入口で叫んだ。"],
  korean: ["할머니는 마당에서 고추를 말리고 계셨다.", "내일 아침 일찍 기차를 타고 부산에 갈 거예요."],
};

const CODE = [
  "int main(int argc, char **argv)\n{\n\tfor (size_t i = 0; i < 0x1F; i++)\n\t\tputs(argv[i]);\n\treturn 0;\n}\n",
  "def fib(n: int) -> int:\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n\n\nprint(f\"{fib(30)!r:>10}\")\n",
  "const f = async ({a, b = 3, ...rest}) => { try { return (await a)?.b ?? `x${b}`; } catch (e) { throw e; } };\n",
  "SELECT u.id, COUNT(*) AS n FROM users u LEFT JOIN orders o ON o.uid = u.id WHERE u.name LIKE '%d''Or%' GROUP BY 1 HAVING n > 10;\n",
  "fn main() -> Result<(), Box<dyn std::error::Error>> {\n    let v: Vec<_> = (0..10).map(|x| x * x).collect();\n    println!(\"{:?}\", v);\n    Ok(())\n}\n",
  "<!DOCTYPE html>\r\n<html lang=\"de\"><body class='a b'>&nbsp;&#x20AC;<br/></body></html>\r\n",
  "{\"key\": [1, 2.5e-10, null, true, {\"nested\\u00e9\": \"\\n\"}], \"_id\": \"0001\"}",
  "#!/bin/sh\nset -eu; for f in *.c; do cc -O2 -o \"${f%.c}\" \"$f\" || exit 1; done 2>&1 | tee /tmp/log.txt\n",
  "\\begin{equation}\\label{eq:1} \\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2} \\end{equation}",
  "package main\n\nimport (\n\t\"fmt\"\n)\n\nfunc main() {\n\tm := map[string]int{\"a\": 1}\n\tfmt.Printf(\"%+v\\n\", m)\n}\n",
  "class HTMLParserXMLNode2D extends BaseXML { getURLFromID() {return this.URLs[ID_3]} }",
  "camelCaseWordsAndPascalCase snake_case_words SCREAMING_CASE kebab-case-words iOS macOS eBay McDonald",
  "https://example.org/a/b.php?q=1&r=%20x#frag user.name+tag@example.co.uk /usr/local/lib//x86_64/ C:\\Dir\\f.txt",
  "| a | b |\n|---|:-:|\n| **x** | `y` |\n\n- [ ] item\n- [x] done\n\n```c\n// end\n```\n",
  "diff --git a/x b/x\n@@ -1,3 +1,4 @@\n-old\n+new\n \n+\tmore\n",
];

const PIECES = [
  "'s", "'S", "'t", "'re", "'VE", "'m", "'Ll", "'d", "\u2019s", "'\u017F", "I'm", "DON'T", "we'Re", "o'clock's", "''", "'x",
  "0", "12", "123", "1234", "1234567", "3.14159", "1,000,000", "1e-9", "0xDEADBEEF", "\u0661\u0662\u0663\u0664", "\u00B2\u00B3\u00BD", "\u2167\u216B", "x2y22z222", "2026-11-22T10:00:00Z",
  " ", "  ", "   ", "\t", "\t\t", " \t ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\r", " \n", "\n ", "  \n  ", "\u00A0", "\u3000", "\u2028", "\u2029", "\u0085", "\u200B", "\u180E", "\u202F", "\uFEFF", "\v", "\f", "\u2003\u2003",
  "!", "!!!", "...", "\u2026", "--", "\u2014", "/", "//", "/\n", "?!\n\n", "()", "[];", "=>", "\u00AB\u00BB", "\u3002\uFF0C", "#$%&*", "~`^", "\"\"\"", "</a>", "\u20AC\u00A5\u00A3", "\u2200x\u2208S", "\u00B0C", "\u2192", "\u2605",
  ");\n//", "*/\n/*", "}\n/", ")\n\n//", ";\r\n\r\n/", "*/\n\n/", "/\n/\n/",
  "\u{1F600}", "\u{1F468}\u200D\u{1F469}\u200D\u{1F467}\u200D\u{1F466}", "\u{1F3F3}\uFE0F\u200D\u{1F308}", "\u{1F1E9}\u{1F1EA}\u{1F1EB}\u{1F1F7}", "\u{1F44D}\u{1F3FD}", "\u2764\uFE0F", "1\uFE0F\u20E3", "\u{1F9D1}\u200D\u{1F680}", "\u{1FAE0}", "\u{1F600}\u{1F600}\u{1F600}", "\u{1D4D7}\u{1D4EE}\u{1D4F5}", "\u{20000}\u{2A6D6}",
  "e\u0301", "a\u0308\u0323", "Z\u0351\u036B\u0343\u036A", "\u0301", "n\u0303o", "\u00F1", "\u01C5", "\u01F2a", "\u02B0\u02E2", "\u00AA\u00BA", "\u0E33", "\u1E9E\u00DF", "\uFB01x", "\uFF21\uFF22\uFF43", "\uAC00\u11A8", "\u0130i\u0131I",
  "a", "A", "Aa", "aA", "AA", "aa", "aAa", "AaA", "x_y", "_", "__init__", "\0", "\x01\x7F", "\u{10FFFD}", "\uE000", "\uFFFD",
  "<|endoftext|>", "<|start|>", "<|", "|>", "<|unknown|>",
];

class Random { // 32-bit, Marsaglia's xorshift
  constructor(seed) { this.x = seed >>> 0 || 1; }
  below(n) {
    this.x ^= this.x << 13; this.x >>>= 0; this.x ^= this.x >>> 17; this.x ^= this.x << 5; this.x >>>= 0;
    return this.x % n;
  }
  of(list) { return list[this.below(list.length)]; }
}

// A cut that does not fall between the halves of a surrogate pair.
function cut(text, from, n) {
  return Array.from(text).slice(from, from + n).join("");
}

// [{text, special}]: special asks for names of special tokens to become these tokens.
export function strings() {
  const out = [];
  const add = (text, special = false) => out.push({ text, special });
  const r = new Random(20261122);
  const sentences = Object.values(LANGUAGES).flat();
  for (const s of sentences) {
    for (const t of [s, ` ${s}`, s.toUpperCase(), s.toLowerCase(), s.replaceAll(" ", "\n"), s.replaceAll(" ", "  "),
                     s.replaceAll(" ", "\r\n"), s.normalize("NFD"), s.normalize("NFC"), s.replaceAll(" ", ""), `${s}${s}`, `\t${s}\r\n\r\n`,
                     Array.from(s).join(" "), cut(s, 1, 20)]) add(t);
  }
  for (const c of CODE) {
    add(c); add(c.replaceAll("\n", "\r\n")); add(c.replaceAll("\t", "    ")); add(c.replaceAll(" ", "\t")); add(c.toUpperCase());
    add(c.split("\n").map((l) => `        ${l}`).join("\n"));
  }
  for (const p of PIECES) { add(p); add(` ${p}`); add(`a${p}b`); add(`${p}${p}${p}`); add(`${p} \n`); }
  for (let i = 0; i < 1500; i++) { // mixed scripts, marks after anything, white space between anything
    let s = "";
    for (let n = 1 + r.below(24); n > 0; n--) {
      const k = r.below(8);
      if (k < 5) s += r.of(PIECES);
      else if (k < 7) s += cut(r.of(sentences), r.below(30), 1 + r.below(12));
      else s += cut(r.of(CODE), r.below(60), 1 + r.below(16));
    }
    add(s, i % 5 === 0);
  }
  for (const c of ["a", "A", " ", "\n", "7", "!", "-", "=", "\t", "\r\n", "ab", "\u4E2D", "\u00E9", "\u{1F600}", "'", "\u0301", " a", "\n "])
    for (const n of [7, 64, 255, 1000, 3001]) add(c.repeat(n));
  // Every character of the first 12,288 code points, 64 at a time. Those that a newer
  // Unicode than 14 added are few here and listed.
  const NEWER = new Set([0x0CF3, 0x0ECE, 0x1C89, 0x1C8A]);
  const known = /[\p{L}\p{N}\p{P}\p{S}\p{Z}\p{M}\p{Cc}]/u;
  for (let from = 0; from < 0x3000; from += 64) {
    const chars = [];
    for (let p = from; p < from + 64; p++) if (!NEWER.has(p) && known.test(String.fromCodePoint(p))) chars.push(String.fromCodePoint(p));
    if (chars.length > 0) { add(chars.join("")); add(chars.join(" ")); }
  }
  let big = "";
  for (let n = 0; n < 1 << 20;) {
    const s = `${r.below(4) ? r.of(sentences) : r.of(CODE)}${r.of([" ", "\n", "\n\n", "  ", "\r\n"])}`;
    big += s;
    n += Buffer.byteLength(s);
  }
  add(big);
  return out;
}
