"""Frozen word lists. Coined surnames and streets: nobody's, and the same for every version."""

FIRST_NAMES = tuple(
    "Ada Alan Amir Anna Aron Bea Ben Carl Cleo Dan Dora Ed Elsa Emil Eva Finn Gita Hana Hugo Ida "
    "Igor Ines Ivan Jan Jo June Kai Kim Lara Lena Leo Lin Lola Luca Mara Max Mei Milo Mina Nadia "
    "Ned Nina Noah Nora Olga Omar Otto Paul Pia Rosa Ruth Sam Sara Sven Tara Tess Theo Tom Uma "
    "Vera Viktor Walt Yara Zoe".split()
)

SURNAME_HEADS = tuple(
    "Bal Bor Cas Cor Dal Dor Fen Gar Gor Hal Hol Jar Kel Kor Lan Lor Mal Mar Nor Or Pel Quin Ral "
    "Ros Sal Sor Tal Tor Ul Val Vor Wil".split()
)
SURNAME_TAILS = tuple(
    "bek bin by dane dell den dor fax ford gan gate ham hart ick kin lake land lin ling man mond "
    "more nock ple ric sen son ster ton wick win worth".split()
)

STREET_HEADS = tuple(
    "Amber Ash Bell Birch Brook Cedar Clay Copper Crane Dove Elm Fern Flint Fox Glen Hazel Heron "
    "Holly Iron Ivy Lark Maple Mill Moss Oak Pine Quill Reed Rook Sage Thorn Wren".split()
)
STREET_TAILS = ("bank", "bridge", "crest", "dale", "field", "gate", "grove", "hill")
STREET_KINDS = ("Close", "Drive", "Lane", "Road", "Row", "Street", "Walk", "Way")

WORDS = tuple(
    "acorn anchor apple arrow badge basil beach berry bison blaze bloom bolt brick bridge broom "
    "cabin cactus candle canoe carpet castle cello chalk cherry circle clover cloud comet copper "
    "coral cotton crater cricket crown dahlia desert dragon eagle echo ember falcon feather fennel "
    "fiddle flame forest fossil garnet geyser ginger glacier goblet granite harbor hazel hornet "
    "island ivory jacket jasmine jungle kettle".split()
)
